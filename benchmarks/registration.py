"""How near the similarity found by `training.data.nersemble.registration` comes to the true one.

Synthetic heads that the shipped weights weren't trained on, seen by cameras spread over the front and sides, each
aimed beside the head, in a rig that is moved, turned and scaled at random. Errors are in EG3D's space: the rotation's
angle, how far the head's centre is from the true one, and the scale's.

python -m benchmarks.registration --identities 12
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from nvb_core.cameras import FOCAL, Cameras, orbit_rotation, roll_rotation
from nvb_core.checkpoint import DEFAULT_WEIGHTS, load_model
from nvb_core.errors import NVBError
from nvb_core.model import NVBModel
from nvb_core.pipeline import predict_cameras
from training.data.nersemble.crops import moved_cameras
from training.data.nersemble.registration import Registration, observe, register
from training.heads.expression import sample_expression
from training.heads.identity import sample_identity
from training.heads.render import render
from training.heads.scene import build_scene
from training.heads.views import sample_view_cameras

FIRST_SEED = 950_000


@dataclass(frozen=True)
class Options:
    """What to measure."""

    weights: Path = DEFAULT_WEIGHTS
    """Model."""
    identities: int = 12
    """Heads."""
    views: int = 8
    """Cameras around each; the frontal half or so of them is used."""
    size: int = 320
    """Side of the rendered pictures in pixels; the head takes about half of it."""
    aim: float = 0.25
    """How far beside the head's centre cameras aim, up to, in EG3D units along each axis."""


@dataclass(frozen=True)
class Errors:
    """Of a similarity, in EG3D's space."""

    angle_deg: float
    centre: float
    scale: float
    """Found over true, less 1."""


def errors_of(found: Tensor, true: Tensor) -> Errors:
    """Of similarities (4, 4) from one rig."""
    off = found @ true.inverse()  # EG3D, as it is -> EG3D, as found
    scale = float(torch.linalg.det(off[:3, :3]) ** (1 / 3))
    cosine = (float(torch.trace(off[:3, :3])) / scale - 1) / 2
    return Errors(math.degrees(math.acos(min(1.0, cosine))), float(off[:3, 3].norm()), scale - 1)


def random_similarity(seed: int) -> Tensor:
    """Rig -> EG3D (4, 4): any rotation, a scale of 1-2, a shift of up to 0.5 along each axis."""
    draw = torch.rand(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = orbit_rotation(360 * draw[:1], 180 * draw[1:2] - 90)[0] @ roll_rotation(360 * draw[2:3])[0]
    similarity = torch.eye(4, dtype=torch.float64)
    similarity[:3, :3] = (1 + draw[3]) * turn
    similarity[:3, 3] = draw[4:] - 0.5
    return similarity


def rig_cameras(seed: int, options: Options) -> Cameras:
    """Wide views (N) in EG3D's space from the places that training's views come from, aimed beside the head."""
    draw = torch.Generator().manual_seed(seed)
    position = sample_view_cameras(seed, options.views).cam2world[:, :3, 3]
    nearness = 0.9 + 0.3 * torch.rand(options.views, 1, generator=draw, dtype=torch.float64)
    aim = options.aim * (2 * torch.rand(options.views, 3, generator=draw, dtype=torch.float64) - 1)
    fov_deg = math.degrees(2 * math.atan(1 / FOCAL))  # twice the canonical view's extent
    return Cameras.look_at(position * nearness, aim, fov_deg=fov_deg)


def measure(seed: int, model: NVBModel, options: Options) -> tuple[Registration, Errors]:
    """One head's registration. Raises RegistrationError."""
    cameras, true = rig_cameras(seed, options), random_similarity(seed)
    scene = build_scene(sample_identity(seed), sample_expression(seed), options.size)
    pictures = render(scene, cameras, options.size, 4).rgb
    serials = [f"{i:02d}" for i in range(options.views)]
    rig = dict(zip(serials, moved_cameras(cameras, true.inverse()), strict=True))
    found = observe(
        dict(zip(serials, pictures, strict=True)),
        rig,
        lambda crops: predict_cameras(model, crops),
        model.config.image_size,
    )
    registration = register(found)
    return registration, errors_of(registration.similarity, true)


def main(options: Options) -> None:
    """Print each head's figures, and the median and worst errors."""
    model = load_model(options.weights)
    all_errors = []
    for seed in range(FIRST_SEED, FIRST_SEED + options.identities):
        started = time.monotonic()
        try:
            registration, errors = measure(seed, model, options)
        except NVBError as error:
            print(f"{seed}: {error}")
            continue
        all_errors.append(errors)
        print(
            f"{seed}: {len(registration.used)} views used, {len(registration.rejected)} rejected, residuals "
            f"{registration.angle_deg:.1f}° {registration.shift:.3f}; off by {errors.angle_deg:.1f}°, "
            f"centre {errors.centre:.3f}, scale {100 * errors.scale:+.1f} %; {time.monotonic() - started:.1f} s"
        )
    print(f"{len(all_errors)} of {options.identities} heads registered; median and worst errors of those, CPU:")
    for name, unit in (("angle_deg", "°"), ("centre", " EG3D units"), ("scale", " of 1")):
        values = [abs(getattr(errors, name)) for errors in all_errors]
        if values:
            print(f"  {name:10} {statistics.median(values):.3f} {max(values):.3f}{unit}")


if __name__ == "__main__":
    main(tyro.cli(Options))
