"""Checkpoints: one safetensors file with the prefixes of `NVBModel`'s submodules and a JSON header (`header`).

A model on top of Stable Diffusion is stored as a difference to it (`adapted`). Reading is strict. Never a pickle.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapted import difference, load_adapted, merged_tensors
from .config import ModelConfig
from .errors import CheckpointError
from .header import FINGERPRINT, build_header, parse_header
from .layers import Operations
from .model import NVBModel
from .staging import write_atomically
from .tensor_files import open_safetensors, read_exactly

LICENSE = "Apache-2.0"
DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "nvb-mini.safetensors"


def save_model(
    model: NVBModel, path: Path, training: dict[str, Any], dtype: torch.dtype = torch.float32, license: str = LICENSE
) -> None:
    """Write a model's parameters as `dtype` (its buffers stay float32); the file appears whole or not at all.

    Of a model on top of Stable Diffusion only the difference is written.
    """
    from safetensors.torch import save_file

    complete = model.config.base_model == "none"
    parameters = {name for name, _ in model.named_parameters()}
    tensors = {
        name: tensor.detach().to("cpu", tensor.dtype if complete and name not in parameters else dtype).contiguous()
        for name, tensor in (model.state_dict() if complete else difference(model)).items()
    }
    fingerprint = None if complete else model.metadata[FINGERPRINT]
    header = build_header(model.config, training, license, fingerprint)
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=header))


def read_metadata(path: Path) -> dict[str, Any]:
    """Header of a checkpoint with `config` and `training` parsed. Raises CheckpointError naming file and key."""
    with open_safetensors(path) as file:
        return parse_header(path, file.metadata())


def load_model(
    path: Path = DEFAULT_WEIGHTS,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Operations = nn,
    base: Path | None = None,
) -> NVBModel:
    """Build a checkpoint's model in evaluation mode, parameters as `dtype`; its header becomes `model.metadata`.

    Its layers are those of `operations`. A difference to Stable Diffusion is added to `base`, the single file or
    diffusers folder of the weights that it was trained on; the model is a complete one then.

    Raises CheckpointError on an unreadable file, an unknown format or version, a config that doesn't fit, missing,
    unexpected, misshapen or non-finite tensors, and a base that is missing, wrong or not asked for.
    """
    metadata = read_metadata(path)
    config: ModelConfig = metadata["config_object"]
    if config.base_model != "none":
        config, tensors = merged_tensors(load_adapted(path, base))
    elif base is not None:
        raise CheckpointError(f"{path}: is a complete model; leave --base out")
    else:
        tensors = _read_complete(path, config)
    model = _assembled(config, tensors, device, dtype, operations)
    model.metadata = metadata
    return model


def _read_complete(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        expected = NVBModel(config).state_dict()
    with open_safetensors(path) as file:
        return read_exactly(path, file, expected)


def _assembled(
    config: ModelConfig, tensors: dict[str, Tensor], device: str, dtype: torch.dtype, operations: Operations
) -> NVBModel:
    """A frozen model of the given tensors."""
    with torch.device("meta"):
        # Which tensors are parameters torch's layers say: others may have none before they are loaded.
        parameters = {name for name, _ in NVBModel(config).named_parameters()}
        model = NVBModel(config, operations)
    converted = {
        name: tensor.to(device, dtype if name in parameters else torch.float32) for name, tensor in tensors.items()
    }
    model.load_state_dict(converted, assign=True)
    model.requires_grad_(False)
    return model.eval()


def count_values(path: Path) -> dict[str, int]:
    """How many numbers a safetensors file stores in each format, such as {"F16": 32768}, from its header alone."""
    counts: dict[str, int] = {}
    with open_safetensors(path) as file:
        for name in file.keys():  # noqa: SIM118 — not a mapping
            tensor = file.get_slice(name)
            counts[tensor.get_dtype()] = counts.get(tensor.get_dtype(), 0) + math.prod(tensor.get_shape())
    return counts


def file_sha256(path: Path) -> str:
    """Hexadecimal digest of a file, read a mebibyte at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
