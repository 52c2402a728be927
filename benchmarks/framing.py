"""Views from cameras that frame the head otherwise than the canonical crop: rolled, zoomed, aimed beside it.

Heads that were neither trained on nor are among those of `nvb-face eval`, degraded as at level 1, photos cropped as
loosely as in training; each row has the same photos and viewpoints. No grid is fitted. Views are compared with the true
ones.

python -m benchmarks.framing
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.progress import track
from torch import Tensor

from nvb_core.cameras import Cameras
from nvb_core.checkpoint import DEFAULT_WEIGHTS, load_model
from nvb_core.cli.worker import DtypeName, choose_dtype
from nvb_core.degradation import PRESETS
from nvb_core.model import NVBModel
from nvb_core.pipeline import render_cameras
from nvb_core.sampling import SamplingOptions
from training.batches import CropJitter, ViewBatch, batch_generator, sample_view_batch
from training.data import FaceFolder
from training.evaluation.metrics import psnr, ssim
from training.heads.dataset import HeadSet, render_set

from .held_out import FACES_AT_ONCE

FIRST_SEED = 960_000
MARGIN = 1.25
ALL = CropJitter(probability=1.0)
STILL = CropJitter(scale=(1.0, 1.0), shift=0.0, roll_deg=0.0, probability=1.0)  # draws as many numbers as the others
FRAMINGS = {
    "canonical": STILL,
    f"rolled by up to {ALL.roll_deg:.0f}°": replace(STILL, roll_deg=ALL.roll_deg),
    f"{ALL.scale[0]} to {ALL.scale[1]} times as wide": replace(STILL, scale=ALL.scale),
    f"aimed beside it by up to {ALL.shift:.0%} of the view": replace(STILL, shift=ALL.shift),
    "all of it": ALL,
}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    weights: Path = DEFAULT_WEIGHTS
    """Model."""
    identities: int = 24
    """Heads; as many photos are drawn from them, rounded up to whole batches."""
    views: int = 4
    """Views of each photo's head."""
    steps: int = 0
    """Denoising steps; 0 takes as many as the model is best with."""
    folder: Path = Path("out/framing")
    """Where the rendered heads are kept."""
    dtype: DtypeName = "auto"
    """Number format of the networks."""


def rendered_heads(options: Options, size: int) -> FaceFolder:
    """Heads with a margin around the canonical crop, so that others can be cut out."""
    heads = HeadSet(FIRST_SEED, options.identities, options.views + 1, size, samples=4, margin=MARGIN)
    for _ in track(render_set(options.folder, heads, os.cpu_count() or 1, "cpu"), "heads", total=None):
        pass
    return FaceFolder.load(options.folder, size)


def batches(folder: FaceFolder, options: Options, framing: CropJitter) -> list[ViewBatch]:
    """Photos and true views; but for how views are framed the same whatever the framing."""
    return [
        sample_view_batch(
            *(folder, FACES_AT_ONCE, options.views, batch_generator(0, index, 0)),
            ranges=PRESETS["level1"],
            source_target_probability=0.0,
            target_jitter=framing,
        )
        for index in range(-(-options.identities // FACES_AT_ONCE))
    ]


def measure(model: NVBModel, batch: ViewBatch, sampling: SamplingOptions) -> Tensor:
    """PSNR in dB and SSIM of each photo (B, 2), means over its views."""
    cameras = [Cameras.from_vector(vectors.double()) for vectors in batch.target_cameras]
    views, targets = render_cameras(model, batch.lq, cameras, sampling).cpu(), batch.targets.flatten(0, 1)
    return torch.stack([psnr(views, targets), ssim(views, targets)], dim=1).unflatten(0, (len(batch.lq), -1)).mean(1)


def main(options: Options) -> None:
    """Print a table; in brackets differences to the first row and their standard errors over photos."""
    model = load_model(options.weights, "cpu", choose_dtype(options.dtype, torch.device("cpu")))
    sampling = SamplingOptions(options.steps or model.config.sampling_steps)
    folder = rendered_heads(options, model.config.image_size)
    results = {
        name: torch.cat([measure(model, b, sampling) for b in track(batches(folder, options, framing), name)])
        for name, framing in FRAMINGS.items()
    }
    first = results["canonical"]
    print("| views | PSNR, dB | SSIM |\n|---|---|---|")
    for name, figures in results.items():
        means, change = figures.mean(0).tolist(), figures - first
        error = (change.std(0) / len(change) ** 0.5).tolist()
        difference = (
            f" ({change[:, 0].mean():+.2f} ± {error[0]:.2f})",
            f" ({change[:, 1].mean():+.3f} ± {error[1]:.3f})",
        )
        shown = ("", "") if figures is first else difference
        print(f"| {name} | {means[0]:.2f}{shown[0]} | {means[1]:.3f}{shown[1]} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
