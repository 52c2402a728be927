"""Which of NeRSemble's participants are for training, for validation and for testing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nvb_core.errors import ConfigError

from ..index import INDEX_NAME, derived_split, read_index
from .layout import Capture, participant_name

NAMED = "test_participants"
"""Of an index's meta: who was named for testing."""


def require_known(named: Sequence[str], capture: Capture, out: Path) -> None:
    """Raise ConfigError for a participant that is named for testing and is neither in SRC nor in OUT."""
    there = {recording.participant for recording in capture.recordings}
    for participant in named:
        name = participant_name(participant)
        if name not in there and not (out / name).is_dir():
            raise ConfigError(
                f"--test-participants {participant}: not among those converted, {', '.join(sorted(there))}"
            )


def for_testing(named: Sequence[str], out: Path) -> set[str]:
    """The participants for testing: those named, else those that were for the index that OUT holds; empty: as derived.

    Raises ConfigError for a damaged index.
    """
    if named or not (out / INDEX_NAME).exists():
        return {participant_name(participant) for participant in named}
    return set(read_index(out).meta.get(NAMED, []))


def splits_of(participants: Sequence[str], test: set[str]) -> list[str]:
    """The participants for testing, validation as derived for all data sets, the rest for training.

    Without any for testing, all as derived.
    """
    derived = {participant: derived_split(participant) for participant in participants}
    if not test:
        return [derived[participant] for participant in participants]
    return ["test" if p in test else "val" if derived[p] == "val" else "train" for p in participants]
