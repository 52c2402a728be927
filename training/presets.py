"""Settings of the paper (arXiv 2603.01328, sections 3 and 4) for `--preset`; what it doesn't say is marked chosen.

Batches are the paper's in all: with P processes give `--batch-size` a P-th of them, or more pictures per step.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .data import Split
from .options import OptimizerName, RunOptions, Step1Options, Step1Preset, Step2Options, Step2Preset


@dataclass(frozen=True)
class _Shared(RunOptions):
    """What both steps have in common."""

    warmup_steps: int = 1_000  # chosen
    decay_fraction: float = 0.0  # chosen: a constant rate
    betas: tuple[float, float] = (0.9, 0.999)  # chosen
    ema_decay: float = 0.9999  # chosen
    half_base: bool = True  # chosen: of the base only the adapters need float32
    gradient_checkpointing: bool = True  # chosen
    save_minutes: float = 30.0  # chosen
    log_every: int = 50  # chosen
    grid_every: int = 2_000  # chosen
    validate_every: int = 2_000  # chosen
    split: Split = "train"  # chosen: what is measured on isn't trained on
    workers: int = 8  # chosen


@dataclass(frozen=True)
class PaperStep1(_Shared, Step1Options):
    """Step 1 on Stable Diffusion 2.1: encoder, cross-attention and LoRA by the plain noise-prediction loss."""

    preset: Step1Preset = "sd21-step1"
    steps: int = 200_000  # paper
    lr: float = 5e-5  # paper
    batch_size: int = 8  # paper
    latent_weight: float = 0.0  # paper: no such loss
    camera_weight: float = 0.0  # paper: the camera is learned in step 2 alone


@dataclass(frozen=True)
class PaperStep2(_Shared, Step2Options):
    """Step 2 on Stable Diffusion 2.1: the view transform, everything else frozen."""

    preset: Step2Preset = "sd21-step2"
    steps: int = 300_000  # paper
    batch_size: int = 2  # paper
    views: int = 7  # paper
    denoised_views: int = 7  # paper: the diffusion loss is over all target views
    lr: float = 1e-4  # chosen
    optimizer: OptimizerName = "adamw"  # chosen


@dataclass(frozen=True)
class PaperStep1SD15(PaperStep1):
    """The same on Stable Diffusion 1.5 (chosen; the paper uses 2.1)."""

    preset: Step1Preset = "sd15-step1"


@dataclass(frozen=True)
class PaperStep2SD15(PaperStep2):
    """The same on Stable Diffusion 1.5 (chosen; the paper uses 2.1)."""

    preset: Step2Preset = "sd15-step2"


PRESETS: dict[str, type[RunOptions]] = {
    "sd21-step1": PaperStep1,
    "sd15-step1": PaperStep1SD15,
    "sd21-step2": PaperStep2,
    "sd15-step2": PaperStep2SD15,
}


def with_preset(options_type: type[Any], argv: Sequence[str]) -> type[Any]:
    """The options whose defaults are those of the preset that a command line names, if it fits `options_type`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", nargs="?")
    name = parser.parse_known_args(list(argv))[0].preset
    chosen = PRESETS.get(name, options_type)
    return chosen if issubclass(chosen, options_type) else options_type
