"""Held-out heads to measure on: from a seed to pictures, cameras and geometry, rendered once and kept in a folder.

    FOLDER/benchmark-KEY/settings.json
    FOLDER/benchmark-KEY/01000000/input.png, view_00.png ..., pair_0.png, pair_1.png, geometry.safetensors

Everything is a pure function of the seed and the settings; KEY also covers the renderer's source, so that a changed
renderer never meets old pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from nvb_core.images import load_image, to_pil
from nvb_core.staging import PARTIAL_SUFFIX, writing

from ..processes import in_processes
from .metrics import PosedView

CAMERA_STREAM = 20
"""Separates the cameras drawn here from everything else that is drawn from a seed."""
INPUT_YAW_DEG, INPUT_PITCH_DEG = 20.0, 10.0
TARGET_YAW_DEG, TARGET_PITCH_DEG = 45.0, 20.0
FRONTAL_YAW_DEG, FRONTAL_VIEWS = 15.0, 2
PAIR_YAW_DEG = 5.0
RAYS_PER_PIXEL = 4
ABANDONED_SECONDS = 3600.0
"""A head takes seconds."""
CameraLayout = Literal["random", "rig"]
RIG_DEG = (  # yaw and pitch
    *((-38.0, 16.0), (-19.0, 16.0), (0.0, 16.0), (19.0, 16.0), (38.0, 16.0)),
    *((-46.5, 0.0), (-27.9, 0.0), (-9.3, 0.0), (9.3, 0.0), (27.9, 0.0), (46.5, 0.0)),
    *((-38.0, -16.0), (-19.0, -16.0), (0.0, -16.0), (19.0, -16.0), (38.0, -16.0)),
)
"""16 cameras over 93° × 32°, as NeRSemble's span (Kirschstein et al. 2023, section 3); their places are chosen."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What the benchmark's pictures depend on besides their seed."""

    views: int
    """Target views of each identity."""
    image_size: int
    cameras: CameraLayout = "random"
    """Targets drawn for each identity, or the same rig around all."""

    def __post_init__(self) -> None:
        if not FRONTAL_VIEWS <= self.views <= 64:
            raise ConfigError(f"views is {self.views}, must be in {FRONTAL_VIEWS}–64")
        if self.cameras == "rig" and self.views != len(RIG_DEG):
            raise ConfigError(f"views is {self.views}, the rig has {len(RIG_DEG)} cameras")


@dataclass(frozen=True, eq=False)
class FaceCameras:
    """Where an identity is seen from."""

    input: Cameras  # 1, near-frontal
    targets: Cameras  # N
    pair: Cameras  # 2, neighbours

    @property
    def all(self) -> Cameras:
        """N + 3: input, targets, pair."""
        return Cameras.cat([self.input, self.targets, self.pair])

    @classmethod
    def split(cls, cameras: Cameras) -> FaceCameras:
        """Inverse of `all`."""
        return cls(cameras[0], cameras[1:-2], cameras[-2:])


@dataclass(frozen=True, eq=False)
class BenchmarkFace:
    """One identity; images are float32 in [-1, 1]."""

    seed: int
    cameras: FaceCameras
    image: Tensor  # (3, S, S) the input view, clean
    targets: Tensor  # (N, 3, S, S)
    pair: tuple[PosedView, PosedView]  # neighbours; their region is the skin


def sample_cameras(seed: int, views: int, layout: CameraLayout = "random") -> FaceCameras:
    """The cameras of a seed: uniform angles, drawn again until FRONTAL_VIEWS targets are near-frontal; or the rig."""
    rng = np.random.default_rng([seed, CAMERA_STREAM])
    front = Cameras.from_angles(
        rng.uniform(-INPUT_YAW_DEG, INPUT_YAW_DEG), rng.uniform(-INPUT_PITCH_DEG, INPUT_PITCH_DEG)
    )
    while True:
        yaw = rng.uniform(-TARGET_YAW_DEG, TARGET_YAW_DEG, views)
        if np.count_nonzero(np.abs(yaw) <= FRONTAL_YAW_DEG) >= FRONTAL_VIEWS:
            break
    pitch = rng.uniform(-TARGET_PITCH_DEG, TARGET_PITCH_DEG, views)
    middle = rng.uniform(-TARGET_YAW_DEG, TARGET_YAW_DEG - PAIR_YAW_DEG)
    pair = Cameras.from_angles([middle, middle + PAIR_YAW_DEG], rng.uniform(-TARGET_PITCH_DEG, TARGET_PITCH_DEG))
    if layout == "rig":
        return FaceCameras(front, Cameras.from_angles(*zip(*RIG_DEG, strict=True)), pair)
    return FaceCameras(front, Cameras.from_angles(yaw.tolist(), pitch.tolist()), pair)


def render_face(folder: Path, seed: int, settings: BenchmarkSettings) -> None:
    """Render an identity into a hidden folder and move it into place whole."""
    from ..heads.expression import sample_expression
    from ..heads.identity import sample_identity
    from ..heads.patch import Material
    from ..heads.render import render
    from ..heads.scene import build_scene

    cameras = sample_cameras(seed, settings.views, settings.cameras).all
    scene = build_scene(sample_identity(seed), sample_expression(seed), settings.image_size)
    views = render(scene, cameras, settings.image_size, RAYS_PER_PIXEL)
    partial, target = folder / f".{seed:08d}.{os.getpid()}{PARTIAL_SUFFIX}", folder / f"{seed:08d}"
    try:
        partial.mkdir()
        for name, image in zip(picture_names(settings.views), views.rgb, strict=True):
            to_pil(image).save(partial / name, format="PNG")
        geometry = {
            "labels": cameras.to_eg3d(),
            "depth": views.depth[-2:].contiguous(),
            "skin": (views.segmentation[-2:] == int(Material.SKIN)).contiguous(),
        }
        save_file(geometry, partial / "geometry.safetensors")
        _move(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, target: Path) -> None:
    """Into place, unless another evaluation was quicker: its pictures are the same."""
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _remove_abandoned(folder: Path) -> None:
    """Hidden folders of runs that were killed; others may be at work in theirs."""
    for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):
        with suppress(FileNotFoundError):  # moved into place just now
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


class Benchmark:
    """The rendered identities of some settings, in a folder below `root`."""

    def __init__(self, root: Path, settings: BenchmarkSettings) -> None:
        self.settings = settings
        sources = [*(Path(__file__).parents[1] / "heads").glob("*.py"), Path(__file__)]
        self.key = digest(asdict(settings), sources)
        self.folder = root / f"benchmark-{self.key}"

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """Those of the seeds that aren't rendered yet."""
        return [seed for seed in seeds if not (self.folder / f"{seed:08d}").is_dir()]

    def render(self, seeds: Sequence[int], workers: int) -> Iterator[int]:
        """Render what is missing, yielding each finished seed. Raises OutputError where the folder can't be written."""
        from ..heads.dataset import prepare

        seeds = self.missing(seeds)
        if not seeds:
            return
        settings = json.dumps(asdict(self.settings))
        prepare("cpu")  # bakes and compiles once, before workers would each do so
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self.folder)
            (self.folder / "settings.json").write_text(settings, encoding="utf-8")
            jobs = [(self.folder, seed, self.settings) for seed in seeds]
            for _, seed, _ in in_processes(render_face, jobs, workers):
                yield seed

    def load(self, seed: int) -> BenchmarkFace:
        """A rendered identity."""
        folder = self.folder / f"{seed:08d}"
        images = torch.stack([load_image(folder / name).pixels for name in picture_names(self.settings.views)])
        geometry = load_file(folder / "geometry.safetensors")
        cameras = FaceCameras.split(Cameras.from_eg3d(geometry["labels"]))
        first, second = (
            PosedView(image, depth, skin, camera)
            for image, depth, skin, camera in zip(
                images[-2:], geometry["depth"], geometry["skin"], cameras.pair, strict=True
            )
        )
        return BenchmarkFace(seed, cameras, images[0], images[1:-2], (first, second))


def digest(settings: Mapping[str, Any], sources: Sequence[Path]) -> str:
    """12 hexadecimal digits that stand for JSON-able settings and the content of source files."""
    sha256 = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(sources):
        sha256.update(path.name.encode() + path.read_bytes())
    return sha256.hexdigest()[:12]


def picture_names(views: int) -> list[str]:
    """Files of an identity, in the order of FaceCameras.all."""
    return ["input.png", *(f"view_{i:02d}.png" for i in range(views)), "pair_0.png", "pair_1.png"]
