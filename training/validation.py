"""Which faces pictures and measurements of a run show."""

from __future__ import annotations

PICTURE_STREAM, VALIDATION_STREAM = 1_000_000, 1_000_001
"""In the place of a process's number in `batch_generator`: draws that training never makes."""
