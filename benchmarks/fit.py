"""How many gradient steps should fit a face's 3D grid to its photo? Quality against cost, by held-out heads.

Heads that were neither trained on nor are among those of `nvb-face eval`, degraded as at level 1 and turned;
`own view`: the photo's own, through the grid, against the true one. In brackets: difference to no fit at all and its
95 % interval, paired over heads.

python -m benchmarks.fit --identities 24
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from nvb_core.checkpoint import DEFAULT_WEIGHTS, load_model
from nvb_core.cli.worker import DtypeName, choose_dtype
from nvb_core.model import NVBModel
from nvb_core.pipeline import build_grid, encode_faces, predict_source, render_cameras
from nvb_core.sampling import SamplingOptions
from training.evaluation.benchmark import BenchmarkFace
from training.evaluation.measure import MeasureSettings, degrade_input
from training.evaluation.metrics import psnr

from .claims.table import method_table
from .held_out import held_out_faces, measured_faces
from .view_error import FIRST_SEED, LEVEL


@dataclass(frozen=True)
class Options:
    """What to measure."""

    weights: Path = DEFAULT_WEIGHTS
    """Model."""
    fit_steps: tuple[int, ...] = (0, 5, 10, 20, 40)
    """Numbers of steps to compare, the first with all others."""
    identities: int = 24
    """Held-out heads."""
    views: int = 8
    """Views of each."""
    steps: int = 0
    """Denoising steps; 0 takes as many as the model is best with."""
    folder: Path = Path("out/fit")
    """Where the rendered heads are kept."""
    dtype: DtypeName = "auto"
    """Number format of the networks."""


@torch.no_grad()
def own_view(model: NVBModel, face: BenchmarkFace, sampling: SamplingOptions) -> tuple[float, float]:
    """PSNR in dB of the photo's own view through the grid, and the seconds that fitting the grid takes."""
    photo = degrade_input(face, LEVEL)[None]
    features = encode_faces(model, photo)
    source = predict_source(model, features)
    features.at(model.config.schedule.train_timesteps // 2)
    start = time.perf_counter()
    build_grid(model, features, source, sampling.fit_steps).at(0)
    seconds = time.perf_counter() - start
    view = render_cameras(model, photo, [face.cameras.input], sampling, source)
    return float(psnr(view.cpu(), face.image[None])), seconds


def main(options: Options) -> None:
    """Print a table and a line for each number of steps."""
    model = load_model(options.weights, "cpu", choose_dtype(options.dtype, torch.device("cpu")))
    seeds = range(FIRST_SEED, FIRST_SEED + options.identities)
    faces = held_out_faces(options.folder, seeds, options.views, model.config.image_size)
    steps, scores, lines = options.steps or model.config.sampling_steps, {}, []
    for count in options.fit_steps:
        name, sampling = f"{count} steps", SamplingOptions(steps, fit_steps=count)
        scores[name], _ = measured_faces(model, faces, MeasureSettings(LEVEL, sampling, true_camera=False), name)
        own, seconds = torch.tensor([own_view(model, face, sampling) for face in faces]).mean(dim=0).tolist()
        lines.append(f"{name}: own view {own:.2f} dB, grid in {seconds:.2f} s a face")
    print("\n".join(method_table(scores, ("psnr", "ssim", "identity", "yaw_reading_error", "pair_psnr", "niqe"))))
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Options))
