"""Where generated views lose PSNR, and where they look unnatural (NIQE, low is good): to the autoencoder, to
restoration, to the features of views, to the noise drawn? And how well the grid gives features back, of the photo's own
view too, which it has been shown.

Heads that were neither trained on nor are among those of `nvb-face eval`. Views are compared with the true ones.

python -m benchmarks.view_error --identities 6 --draws 3
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from nvb_core.cameras import Cameras
from nvb_core.checkpoint import DEFAULT_WEIGHTS, load_model
from nvb_core.degradation import degrade
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel
from nvb_core.pipeline import ViewFeatures, build_grid, encode_faces, predict_source, sample_views
from nvb_core.sampling import SamplingOptions, decode_latents, sample_latents
from training.evaluation.benchmark import BenchmarkFace
from training.evaluation.measure import input_degradation
from training.evaluation.metrics import psnr
from training.evaluation.niqe import niqe
from training.losses import feature_losses

from .held_out import held_out_faces

FIRST_SEED = 900_000
LEVEL = 1
FEATURE_TIMESTEP = 300
"""Any would do: the encoder hardly tells timesteps apart (benchmarks/claims, 4)."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    weights: Path = DEFAULT_WEIGHTS
    """Model."""
    identities: int = 8
    """Heads; at least 2."""
    views: int = 4
    """Views of each."""
    steps: int = 20
    """Denoising steps."""
    draws: int = 4
    """How often the views are sampled, from other noise each time; at least 2."""
    folder: Path = Path("out/view_error")
    """Where the rendered heads are kept."""

    def __post_init__(self) -> None:
        if min(self.identities, self.draws) < 2:
            raise ConfigError(f"{self.identities} identities and {self.draws} draws; must be at least 2 of each")


def pictures_of(model: NVBModel, face: BenchmarkFace, options: Options) -> dict[str, list[Tensor]]:
    """Pictures (N, 3, S, S) of the face's targets by each way to make them; several where noise is drawn anew."""
    degradation, count = input_degradation(face, LEVEL), len(face.targets)
    features = encode_faces(model, degrade(face.image[None], [degradation]))
    own = encode_faces(model, degrade(face.targets, [degradation] * count))

    def restoration(timestep: int, start: int, end: int) -> Tensor:
        return model.context(own.at(timestep)[start:end])

    def turned(source: Cameras, seed: int) -> Tensor:
        views = ViewFeatures(model, build_grid(model, features, source), [face.cameras.targets])
        return decode_latents(model, sample_views(model, views, SamplingOptions(options.steps, seed=seed)))

    predicted = predict_source(model, features)
    # As one face's views, so that restorations start from the same noise as the generated ones.
    restored = sample_latents(model, restoration, 1, count, SamplingOptions(options.steps))
    return {
        "the true view through the autoencoder": [decode_latents(model, model.vae.encode(face.targets))],
        "restored from the degraded true view": [decode_latents(model, restored)],
        "generated, true source camera": [turned(face.cameras.input, 0)],
        "generated": [turned(predicted, seed) for seed in range(options.draws)],
    }


@torch.no_grad()
def feature_errors(model: NVBModel, face: BenchmarkFace) -> dict[str, float]:
    """Loss between normalised features (`training.losses.feature_losses`) and those of the degraded true pictures."""
    degradation, count = input_degradation(face, LEVEL), len(face.targets)
    photos = degrade(face.image.expand(2, -1, -1, -1), [degradation] * 2, [0, 1])
    others = degrade(face.targets, [degradation] * count, list(range(2, count + 2)))
    truth = encode_faces(model, torch.cat([photos, others])).at(FEATURE_TIMESTEP)
    grid = build_grid(model, encode_faces(model, photos[:1]), face.cameras.input)
    cameras = Cameras.cat([face.cameras.input, face.cameras.targets])
    views = ViewFeatures(model, grid, [cameras]).at(FEATURE_TIMESTEP, 0, count + 1)
    pairs = {
        "the photo's own, other noise": (truth[:1], truth[1:2]),
        "the photo's own, through the grid": (views[:1], truth[1:2]),
        "other views', through the grid": (views[1:], truth[2:]),
    }
    return {name: feature_losses(one, other)[0].item() for name, (one, other) in pairs.items()}


@torch.no_grad()
def measure(model: NVBModel, face: BenchmarkFace, options: Options) -> dict[str, tuple[float, Tensor]]:
    """By row of the table: mean PSNR over the views, and the pictures (N, 3, S, S)."""
    pictures = pictures_of(model, face, options)
    draws = pictures["generated"]
    rows = {name: (images[0], face.targets) for name, images in pictures.items()}
    rows[f"mean of {len(draws)} draws"] = torch.stack(draws).mean(dim=0), face.targets
    rows["one draw against another"] = draws[0], draws[1]
    return {name: (float(psnr(images, others).mean()), images) for name, (images, others) in rows.items()}


def main(options: Options) -> None:
    """Print two tables."""
    model = load_model(options.weights)
    seeds = range(FIRST_SEED, FIRST_SEED + options.identities)
    faces = held_out_faces(options.folder, seeds, options.views, model.config.image_size)
    print(f"{'true views':<40}{'':18}NIQE {niqe(torch.cat([face.targets for face in faces])) or math.nan:.2f}")
    rows = [measure(model, face, options) for face in faces]
    for name in rows[0]:
        values = np.array([row[name][0] for row in rows])
        naturalness = niqe(torch.cat([row[name][1] for row in rows])) or math.nan
        error = values.std(ddof=1) / np.sqrt(len(rows))
        print(f"{name:<40}{values.mean():6.2f} dB ± {error:.2f}   NIQE {naturalness:.2f}")
    features = [feature_errors(model, face) for face in faces]
    for name in features[0]:
        print(f"features: {name:<40}{np.mean([row[name] for row in features]):.3f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
