"""Synthetic heads: images per second of two workers, agreement of neighbouring views on skin, failed meshes.

python -m benchmarks.heads [--identities 48] [--meshes 500]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from nvb_core.cameras import Cameras
from training.heads.dataset import HeadSet, prepare, render_set
from training.heads.expression import sample_expression
from training.heads.identity import sample_identity
from training.heads.reprojection import skin_psnr
from training.heads.scene import Scene, build_scene

SIZE, SAMPLES, VIEWS, WORKERS = 128, 4, 8, 2
FIRST_SEED = 500_000  # neither trained nor evaluated on


@dataclass(frozen=True)
class Options:
    identities: int = 48
    """Identities that speed and reprojection are measured on."""
    meshes: int = 500
    """Seeds whose meshes are checked."""


def main() -> None:
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    prepare("cpu")
    table = Table("figure", "measured", "bar")
    table.add_row(
        f"images/s, {WORKERS} workers, {SIZE}², {SAMPLES} samples", f"{speed(options.identities):.1f}", ">= 8"
    )
    cpu = cpu_seconds(min(options.identities, 16))
    table.add_row("CPU seconds an image, scene building included", f"{cpu:.3f}", f"<= {WORKERS / 8:.3f}")
    psnr = [agreement(scene(FIRST_SEED + i)) for i in range(options.identities)]
    table.add_row("reprojection on skin, 5° apart: mean", f"{statistics.mean(psnr):.1f} dB", ">= 30 dB")
    table.add_row("reprojection on skin, 5° apart: worst", f"{min(psnr):.1f} dB", "")
    failed = [seed for seed in range(FIRST_SEED, FIRST_SEED + options.meshes) if not scene(seed).is_sound()]
    table.add_row(f"failed meshes in {options.meshes} seeds", f"{len(failed)} {failed[:5] or ''}", "0")
    Console().print(table)


def scene(seed: int) -> Scene:
    return build_scene(sample_identity(seed), sample_expression(seed), SIZE)


def speed(identities: int) -> float:
    """Wall-clock images per second of the command's own loop, after its workers have started."""
    heads = HeadSet(FIRST_SEED, identities, VIEWS, SIZE, SAMPLES, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        ends = [time.monotonic() for _ in render_set(Path(folder), heads, WORKERS, "cpu")]
    return (len(ends) - 1) * VIEWS / (ends[-1] - ends[0])


def cpu_seconds(identities: int) -> float:
    """CPU time an image of one process, which other programs on the machine disturb less than wall-clock time."""
    heads = HeadSet(FIRST_SEED, identities, VIEWS, SIZE, SAMPLES, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        ends = [time.process_time() for _ in render_set(Path(folder), heads, 1, "cpu")]
    return (ends[-1] - ends[0]) / ((len(ends) - 1) * VIEWS)


def agreement(head: Scene) -> float:
    return skin_psnr(head, Cameras.from_angles([10.0, 15.0]), SIZE, SAMPLES)


if __name__ == "__main__":
    main()
