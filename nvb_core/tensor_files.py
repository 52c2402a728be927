"""Reading of safetensors files: what isn't one, or holds bad numbers, is one clear error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def open_safetensors(path: Path) -> Any:
    """An open safetensors file, or a CheckpointError that says what the file is instead."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; name a .safetensors checkpoint")
        with path.open("rb") as file:
            start = file.read(4)
        if start.startswith(_PICKLE_STARTS):
            raise CheckpointError(f"{path}: a pickle, which can run code when loaded; never read, use .safetensors")
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); copy or download it again") from None


def read_exactly(path: Path, file: Any, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an open file, which must have the names and shapes of `expected` and finite values.

    Raises CheckpointError naming file and tensor.
    """
    for name in sorted(set(file.keys()) ^ expected.keys()):
        state = "missing" if name in expected else "unexpected"
        raise CheckpointError(f"{path}: tensor {name} is {state}; the file doesn't hold the model of its config")
    tensors = {name: file.get_tensor(name) for name in expected}
    for name, tensor in tensors.items():
        require_shape(f"{path}: {name}", tensor, expected[name].shape)
        require_numbers(f"{path}: {name}", tensor, "the training run diverged")
    return tensors


def require_numbers(where: str, tensor: torch.Tensor, advice: str) -> None:
    """Raise CheckpointError unless a tensor holds finite floating-point numbers of a kind that we compute in."""
    if tensor.dtype not in DTYPES:
        raise CheckpointError(f"{where} is of {tensor.dtype}, expected float32, float16 or bfloat16")
    if not tensor.isfinite().all():
        raise CheckpointError(f"{where} holds NaN or infinite values; {advice}")


def require_shape(where: str, tensor: torch.Tensor, shape: torch.Size) -> None:
    """Raise CheckpointError unless a tensor has this shape."""
    if tensor.shape != shape:
        raise CheckpointError(f"{where} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
