"""Checkpoints: one safetensors file with the prefixes of `NVBModel`'s submodules and a JSON header.

Header: `format` = nvb-face, `version`, `config`, `base_model`, `training` (data, steps, seed, git revision), `license`.
Reading is strict. Never a pickle.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import ModelConfig
from .errors import CheckpointError, ConfigError
from .layers import Operations
from .model import NVBModel
from .staging import write_atomically

FORMAT, VERSION = "nvb-face", 1
LICENSE = "Apache-2.0"
DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "nvb-mini.safetensors"
HEADER_KEYS = ("format", "version", "config", "base_model", "training", "license")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def save_model(
    model: NVBModel, path: Path, training: dict[str, Any], dtype: torch.dtype = torch.float32, license: str = LICENSE
) -> None:
    """Write all of a model's parameters as `dtype` (its buffers stay float32); the file appears whole or not at all."""
    from safetensors.torch import save_file

    parameters = {name for name, _ in model.named_parameters()}
    tensors = {
        name: tensor.detach().to("cpu", dtype if name in parameters else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(model.config.to_dict()),
        "base_model": model.config.base_model,
        "training": json.dumps(training),
        "license": license,
    }
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=header))


def read_metadata(path: Path) -> dict[str, Any]:
    """Header of a checkpoint with `config` and `training` parsed. Raises CheckpointError naming file and key."""
    with open_safetensors(path) as file:
        return _parse_header(path, file.metadata())


def load_model(
    path: Path = DEFAULT_WEIGHTS,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Operations = nn,
) -> NVBModel:
    """Build a checkpoint's model in evaluation mode, parameters as `dtype`; its header becomes `model.metadata`.

    Its layers are those of `operations`.

    Raises CheckpointError on an unreadable file, an unknown format or version, a config that doesn't fit, and missing,
    unexpected, misshapen or non-finite tensors.
    """
    with open_safetensors(path) as file:
        metadata = _parse_header(path, file.metadata())
        with torch.device("meta"):
            plain = NVBModel(metadata["config_object"])
            model = plain if operations is nn else NVBModel(metadata["config_object"], operations)
        expected = plain.state_dict()  # of torch's layers, since others may have no parameters before they are loaded
        found = set(file.keys())
        for name in sorted(found ^ expected.keys()):
            state = "missing" if name in expected else "unexpected"
            raise CheckpointError(f"{path}: tensor {name} is {state}; the file doesn't hold the model of its config")
        parameters = {name for name, _ in plain.named_parameters()}
        tensors = {}
        for name, want in expected.items():
            tensor = file.get_tensor(name)
            _check_tensor(f"{path}: {name}", tensor, want.shape)
            tensors[name] = tensor.to(device, dtype if name in parameters else torch.float32)
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(False)
    model.metadata = metadata
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


def _check_tensor(where: str, tensor: torch.Tensor, shape: torch.Size) -> None:
    if tensor.dtype not in DTYPES:
        raise CheckpointError(f"{where} is of {tensor.dtype}, expected float32, float16 or bfloat16")
    if tensor.shape != shape:
        raise CheckpointError(f"{where} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    if not tensor.isfinite().all():
        raise CheckpointError(f"{where} holds NaN or infinite values; the training run diverged")


def open_safetensors(path: Path) -> Any:
    """An open safetensors file, or a CheckpointError that says what the file is instead."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; name a .safetensors checkpoint")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start.startswith(_PICKLE_STARTS):
            raise CheckpointError(f"{path}: a pickle, which can run code when loaded; never read, use .safetensors")
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); copy or download it again") from None


def _parse_header(path: Path, header: dict[str, str] | None) -> dict[str, Any]:
    header = header or {}
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format is {header.get('format')!r}, expected {FORMAT!r}; not an NVB-Face model")
    if header.get("version") != str(VERSION):
        raise CheckpointError(f"{path}: version {header.get('version')!r} isn't known, only {VERSION}; update NVB-Face")
    for key in HEADER_KEYS:
        if key not in header:
            raise CheckpointError(f"{path}: header lacks {key!r}; write the file with nvb_core.checkpoint.save_model")
    parsed: dict[str, Any] = dict(header)
    for key in ("config", "training"):
        try:
            parsed[key] = json.loads(header[key])
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path}: header {key!r} isn't JSON ({error})") from None
        if not isinstance(parsed[key], dict):
            raise CheckpointError(f"{path}: header {key!r} isn't a JSON object")
    try:
        parsed["config_object"] = ModelConfig.from_dict(parsed["config"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: header config doesn't fit: {error}") from None
    return parsed
