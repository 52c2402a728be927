"""Make a checkpoint complete: add what was trained on top of Stable Diffusion to its weights, in one file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from ..checkpoint import load_model, read_metadata, save_model
from ..errors import ConfigError, OccupiedError
from . import PROG

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
DtypeName = Literal["fp16", "bf16", "fp32"]


@dataclass(frozen=True)
class Options:
    """Make a checkpoint complete: add what was trained on top of Stable Diffusion to its weights, in one file.

    The result runs everywhere without --base.
    """

    weights: Path
    """Checkpoint that was trained with --base."""
    base: Path
    """The Stable Diffusion weights that it was trained on: a .safetensors file or a diffusers folder."""
    out: Path
    """The complete checkpoint, a .safetensors file."""
    dtype: DtypeName = "fp16"
    """Number format of the file."""


def require_apart(out: Path, *inputs: Path | None) -> None:
    """Raise OccupiedError if a result would take the place of what it is made from."""
    for path in inputs:
        if path is not None and out.exists() and out.resolve().is_relative_to(path.resolve()):
            raise OccupiedError(f"{out}: the result is made from it; choose another --out")


def require_file_name(out: Path) -> None:
    """Raise ConfigError if a file can't be written there; without it that shows after minutes of work."""
    if out.is_dir() or not out.name:
        raise ConfigError(f"--out {out}: is a folder; name a .safetensors file")


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face merge`. Raises NVBError."""
    options = tyro.cli(Options, args=list(argv), prog=f"{PROG} merge")
    require_apart(options.out, options.weights, options.base)
    require_file_name(options.out)
    if read_metadata(options.weights)["config_object"].base_model == "none":
        raise ConfigError(f"{options.weights}: is complete already; there is nothing to merge")
    model = load_model(options.weights, base=options.base)
    save_model(model, options.out, model.metadata["training"], DTYPES[options.dtype], model.metadata["license"])
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB", file=sys.stderr)
    return 0
