"""Telling a lack of memory from other failures."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that an allocation failed, on a GPU or on the CPU."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    # Apple's GPUs and CPUs have no error of their own for it, and CUDA's driver speaks up through another one.
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(words in said for words in ("out of memory", "can't allocate memory", "status_alloc_failed"))
