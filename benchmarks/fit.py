"""How many gradient steps should fit a face's 3D grid to its photo? Quality against cost, by held-out heads.

Heads that were neither trained on nor are among those of `nvb-face eval`, degraded as at level 1 and turned;
`own view`: the photo's own, through the grid, against the true one. In brackets: difference to no fit at all and its
95 % interval, paired over heads.

python -m benchmarks.fit --identities 24
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.progress import track

from nvb_core.checkpoint import DEFAULT_WEIGHTS, load_model
from nvb_core.cli.worker import DtypeName, choose_dtype
from nvb_core.model import NVBModel
from nvb_core.pipeline import build_grid, encode_faces, predict_source, render_cameras
from nvb_core.sampling import SamplingOptions
from training.evaluation.benchmark import Benchmark, BenchmarkFace, BenchmarkSettings
from training.evaluation.measure import MeasureSettings, degrade_input, generate, machine_name, score
from training.evaluation.metrics import psnr
from training.evaluation.scores import IdentityScores

from .claims.table import method_table
from .view_error import FIRST_SEED, LEVEL

FACES_AT_ONCE = 4


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


def measure(
    model: NVBModel, faces: Sequence[BenchmarkFace], sampling: SamplingOptions, machine: str
) -> tuple[list[IdentityScores], str]:
    """Scores of some faces, and a line on their own views."""
    settings = MeasureSettings(LEVEL, sampling, true_camera=False)
    scores = []
    for first in track(range(0, len(faces), FACES_AT_ONCE), f"{sampling.fit_steps} steps"):
        batch = faces[first : first + FACES_AT_ONCE]
        scores += score(batch, generate(model, batch, settings), machine)
    own, seconds = torch.tensor([own_view(model, face, sampling) for face in faces]).mean(dim=0).tolist()
    return scores, f"{sampling.fit_steps} steps: own view {own:.2f} dB, grid in {seconds:.2f} s a face"


def main(options: Options) -> None:
    """Print a table and a line for each number of steps."""
    device = torch.device("cpu")
    model = load_model(options.weights, str(device), choose_dtype(options.dtype, device))
    benchmark = Benchmark(options.folder, BenchmarkSettings(options.views, model.config.image_size))
    seeds = range(FIRST_SEED, FIRST_SEED + options.identities)
    for _ in benchmark.render(seeds, os.cpu_count() or 1):
        pass
    faces = [benchmark.load(seed) for seed in seeds]
    steps = options.steps or model.config.sampling_steps
    results = {
        f"{count} steps": measure(model, faces, SamplingOptions(steps, fit_steps=count), machine_name(device))
        for count in options.fit_steps
    }
    shown = ("psnr", "ssim", "identity", "identity_margin", "yaw_reading_error", "pair_psnr", "niqe")
    print("\n".join(method_table({name: scores for name, (scores, _) in results.items()}, shown)))
    print("\n".join(line for _, line in results.values()))


if __name__ == "__main__":
    main(tyro.cli(Options))
