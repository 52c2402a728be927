"""How a model takes photos in other tones than the true colours of synthetic heads: black and white, sepia, faded.

The same held-out heads in each tone, degraded as at level 1 and turned; views are compared with the true ones in that
tone. `colour that isn't there`: how far the channels of views of black-and-white photos are apart, of 255.

python -m benchmarks.tones --identities 24
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor

from nvb_core.checkpoint import DEFAULT_WEIGHTS, load_model
from nvb_core.cli.worker import DtypeName, choose_dtype
from nvb_core.sampling import SamplingOptions
from training.evaluation.benchmark import BenchmarkFace
from training.evaluation.measure import MeasureSettings
from training.heads.dataset import HELD_OUT_SEED
from training.tones import Tone

from .claims.table import method_table
from .held_out import held_out_faces, measured_faces

LEVEL = 1
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


def main(options: Options) -> None:
    """Print a table."""
    model = load_model(options.weights, "cpu", choose_dtype(options.dtype, torch.device("cpu")))
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + options.identities)
    faces = held_out_faces(options.folder, seeds, options.views, model.config.image_size)
    settings = MeasureSettings(LEVEL, SamplingOptions(options.steps or model.config.sampling_steps), true_camera=False)
    results = {
        name: measured_faces(model, [toned(face, tone) for face in faces], settings, name)
        for name, tone in TONES.items()
    }
    shown = ("restored_psnr", "psnr", "ssim", "identity", "yaw_reading_error", "pair_psnr")
    print("\n".join(method_table({name: scores for name, (scores, _) in results.items()}, shown)))
    for name, (_, views) in results.items():
        if not TONES[name].saturation and TONES[name].gains == WHITE:
            print(f"{name}: colour that isn't there {colour_of(views):.1f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
