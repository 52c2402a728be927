"""How a model takes photos in other tones than the true colours of synthetic heads: black and white, sepia, faded.

The same held-out heads in each tone, degraded as at level 1 and turned; views are compared with the true ones in that
tone. `colour that isn't there`: how far the channels of views of black-and-white photos are apart, of 255.

python -m benchmarks.tones --identities 24
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.progress import track
from torch import Tensor

from benchmarks.claims.table import method_table
from nvb_core.checkpoint import DEFAULT_WEIGHTS, load_model
from nvb_core.cli.worker import DtypeName, choose_dtype
from nvb_core.model import NVBModel
from nvb_core.sampling import SamplingOptions
from training.evaluation.benchmark import HELD_OUT_SEED, Benchmark, BenchmarkFace, BenchmarkSettings
from training.evaluation.measure import MeasureSettings, generate, machine_name, score
from training.evaluation.scores import IdentityScores
from training.tones import Tone

LEVEL = 1
FACES_AT_ONCE = 4
WHITE = (1.0, 1.0, 1.0)
PANCHROMATIC, ORTHOCHROMATIC = (0.3, 0.6, 0.1), (0.1, 0.55, 0.35)
TONES = {
    "true colours": Tone(1.0, PANCHROMATIC, 1.0, 0.0, 1.0, WHITE),
    "faded": Tone(0.9, PANCHROMATIC, 0.5, 0.0, 0.8, (1.0, 0.95, 0.85)),
    "sepia": Tone(1.0, PANCHROMATIC, 0.0, 0.0, 1.0, (1.0, 0.88, 0.76)),
    "black and white": Tone(1.0, PANCHROMATIC, 0.0, 0.0, 1.0, WHITE),
    "black and white, hard, blind to red": Tone(1.2, ORTHOCHROMATIC, 0.0, 0.0, 1.4, WHITE),
}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    weights: Path = DEFAULT_WEIGHTS
    """Model."""
    identities: int = 24
    """Held-out heads."""
    views: int = 8
    """Views of each."""
    steps: int = 0
    """Denoising steps; 0 takes as many as the model is best with."""
    folder: Path = Path("out/tones")
    """Where the rendered heads are kept."""
    dtype: DtypeName = "auto"
    """Number format of the networks."""


def toned(face: BenchmarkFace, tone: Tone) -> BenchmarkFace:
    """All pictures of a face in one tone."""
    first, second = (replace(view, image=tone(view.image[None])[0]) for view in face.pair)
    return replace(face, image=tone(face.image[None])[0], targets=tone(face.targets), pair=(first, second))


def colour_of(images: Tensor) -> float:
    """Mean deviation of the channels of (..., 3, H, W) in [-1, 1] from their mean, of 255."""
    return float((images - images.mean(dim=-3, keepdim=True)).square().mean().sqrt()) * 255 / 2


def measure(
    model: NVBModel, faces: Sequence[BenchmarkFace], settings: MeasureSettings, machine: str
) -> tuple[list[IdentityScores], float]:
    """Scores of some faces, and the colour of their views."""
    scores, views = [], []
    for first in track(range(0, len(faces), FACES_AT_ONCE)):
        batch = faces[first : first + FACES_AT_ONCE]
        generated = generate(model, batch, settings)
        scores += score(batch, generated, machine)
        views.append(generated.views)
    return scores, colour_of(torch.cat(views))


def main(options: Options) -> None:
    """Print a table."""
    device = torch.device("cpu")
    model = load_model(options.weights, str(device), choose_dtype(options.dtype, device))
    benchmark = Benchmark(options.folder, BenchmarkSettings(options.views, model.config.image_size))
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + options.identities)
    for _ in benchmark.render(seeds, os.cpu_count() or 1):
        pass
    faces = [benchmark.load(seed) for seed in seeds]
    settings = MeasureSettings(LEVEL, SamplingOptions(options.steps or model.config.sampling_steps), true_camera=False)
    results = {
        name: measure(model, [toned(face, tone) for face in faces], settings, machine_name(device))
        for name, tone in TONES.items()
    }
    shown = ("restored_psnr", "psnr", "ssim", "identity", "yaw_reading_error", "pair_psnr")
    print("\n".join(method_table({name: scores for name, (scores, _) in results.items()}, shown)))
    for name, (_, colour) in results.items():
        if not TONES[name].saturation and TONES[name].gains == WHITE:
            print(f"{name}: colour that isn't there {colour:.1f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
