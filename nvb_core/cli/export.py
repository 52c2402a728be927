"""Write a model's U-Net and autoencoder for other programs: a diffusers folder or Stable Diffusion's single file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..checkpoint import load_model, read_metadata
from ..sd_export import require_sd_shape, write_diffusers_folder, write_single_file
from . import PROG
from .merge import DTYPES, DtypeName, require_apart, require_file_name


@dataclass(frozen=True)
class Options:
    """Write a model's U-Net and autoencoder for other programs: a diffusers folder or Stable Diffusion's single file.

    The U-Net expects our tokens in the place of a text's; they come from the checkpoint's other parts.
    """

    weights: Path
    """Model: a .safetensors checkpoint that was trained on top of Stable Diffusion."""
    out: Path
    """Folder (diffusers) or .safetensors file (single) to write."""
    base: Path | None = None
    """The Stable Diffusion weights that it was trained on, unless it has been merged."""
    format: Literal["diffusers", "single"] = "diffusers"
    """diffusers: unet/, vae/ and scheduler/; single: the layout that ComfyUI reads from models/checkpoints, but for
    a v-prediction, which it has to be told of by ModelSamplingDiscrete."""
    dtype: DtypeName = "fp16"
    """Number format of the files."""


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face export`. Raises NVBError."""
    options = tyro.cli(Options, args=list(argv), prog=f"{PROG} export")
    require_apart(options.out, options.weights, options.base)
    if options.format == "single":
        require_file_name(options.out)
    config = read_metadata(options.weights)["config_object"]
    require_sd_shape(config)
    model = load_model(options.weights, base=options.base)
    write = write_diffusers_folder if options.format == "diffusers" else write_single_file
    write(model, options.out, DTYPES[options.dtype])
    print(f"wrote {options.out}", file=sys.stderr)
    if options.format == "single" and config.schedule.prediction_type == "v_prediction":
        zero_snr = "on" if config.schedule.zero_terminal_snr else "off"
        print(f"In ComfyUI put ModelSamplingDiscrete (v_prediction, zsnr {zero_snr}) behind it.", file=sys.stderr)
    return 0
