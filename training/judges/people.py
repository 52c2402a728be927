"""What the judges learn from and are tested on: people, each in several scenes, from several cameras.

A person is the shape of the head, skin, brows and eyes. Expression, light, backdrop and clothes change from scene to
scene; glasses come and go, and in every third scene the hair is another's (a beard goes with it).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from nvb_core.images import to_pil
from nvb_core.staging import locked, writing

from ..data import require_meta, write_index
from ..heads.identity import Identity, sample_identity
from ..processes import in_processes

SIZE = 96
"""Side in pixels of what the judges see (chosen)."""
TRAINING_SEED, HELD_OUT_SEED = 3_000_000, 3_900_000
"""First seeds of people to learn from and to be tested on; nothing else uses seeds from 3,000,000 on."""
SCENES, VIEWS = 3, 4
YAW_DEG, PITCH_DEG, ROLL_DEG = 50.0, 25.0, 8.0
SCALE, SHIFT = 1.1, 0.04
"""How much crops differ: focal length up to this factor, centre by this part of the side."""
SAMPLES = 4
STREAM = 30
"""Separates what is drawn here from everything else that is drawn from a seed."""
SCENE_SEEDS = 1_000_000_000
"""Seeds of what a scene lends to a person lie from here on."""


@dataclass(frozen=True)
class People:
    """Which people, and how many pictures of each scene."""

    first_seed: int
    count: int
    views: int = VIEWS

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 500_000 or self.first_seed < TRAINING_SEED:
            raise ConfigError(f"{self.count} people from seed {self.first_seed}: must be 1–500000 from {TRAINING_SEED}")
        if not 1 <= self.views <= VIEWS:
            raise ConfigError(f"{self.views} views of a scene: must be in 1–{VIEWS}")

    @property
    def meta(self) -> dict[str, Any]:
        """What must agree for two runs to fill one folder."""
        return {"generator": "nvb-face judges 1", "first_seed": self.first_seed, "margin": 1.0}

    @property
    def seeds(self) -> range:
        """One per person."""
        return range(self.first_seed, self.first_seed + self.count)


def scene_seed(seed: int, scene: int) -> int:
    """Of the expression and of the one whose clothes, light and, in the last scene, hair the person has."""
    return SCENE_SEEDS + (seed - TRAINING_SEED) * SCENES + scene


def in_scene(person: Identity, scene: int) -> Identity:
    """The person in one of the scenes."""
    other = sample_identity(scene_seed(person.seed, scene))
    hair = person.look.hair
    style = person.hair_style
    if scene == SCENES - 1:
        hair, style = replace(other.look.hair, dark=hair.dark, light=hair.light), replace(other.hair_style, beard=0.0)
    look = replace(person.look, hair=hair, cloth=other.look.cloth, light=other.look.light, backdrop=other.look.backdrop)
    return replace(person, look=look, hair_style=style, glasses=other.glasses, cloth_thickness=other.cloth_thickness)


def sample_cameras(seed: int, scene: int) -> Cameras:
    """VIEWS cameras around the head, their crops a little loose."""
    rng = np.random.default_rng([seed, scene, STREAM])
    angles = rng.uniform(-1, 1, (VIEWS, 3)) * (YAW_DEG, PITCH_DEG, ROLL_DEG)
    cameras = Cameras.from_angles(*angles.T.tolist())
    intrinsics = cameras.intrinsics.clone()
    scale = torch.from_numpy(SCALE ** rng.uniform(-1, 1, VIEWS))
    intrinsics[:, 0, 0] *= scale
    intrinsics[:, 1, 1] *= scale
    intrinsics[:, :2, 2] += torch.from_numpy(rng.uniform(-SHIFT, SHIFT, (VIEWS, 2)))
    return Cameras(cameras.cam2world, intrinsics)


def render_person(folder: Path, seed: int, views: int) -> None:
    """Render a person's pictures into a hidden folder and move it into place whole, for what is there of the person."""
    from ..heads.expression import sample_expression
    from ..heads.render import render
    from ..heads.scene import build_scene

    person = sample_identity(seed)
    partial = folder / f".{seed:08d}.{os.getpid()}"
    try:
        partial.mkdir()
        for scene in range(SCENES):
            built = build_scene(in_scene(person, scene), sample_expression(scene_seed(seed, scene)), SIZE)
            # A lens per camera: the renderer takes one focal length for all it draws at once.
            for view, camera in enumerate(sample_cameras(seed, scene)[:views]):
                [rgb] = render(built, camera, SIZE, SAMPLES).rgb
                to_pil(rgb).save(partial / f"{scene}-{view}.png", format="PNG", compress_level=3)
        shutil.rmtree(folder / f"{seed:08d}", ignore_errors=True)
        os.replace(partial, folder / f"{seed:08d}")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def render_people(folder: Path, people: People, workers: int) -> Iterator[int]:
    """Render who is missing, yielding each finished seed, and write dataset.json.

    Raises OutputError, ConfigError where there is something else, and OccupiedError if another process is at it.
    """
    from ..heads.dataset import prepare

    with locked(folder), writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        require_meta(folder, people.meta)
        for stale in folder.glob(".????????.*"):
            shutil.rmtree(stale, ignore_errors=True)
        last = f"{SCENES - 1}-{people.views - 1}.png"
        missing = [seed for seed in people.seeds if not (folder / f"{seed:08d}" / last).is_file()]
        if missing:
            prepare("cpu")
            for _, seed, _ in in_processes(render_person, [(folder, seed, people.views) for seed in missing], workers):
                yield seed
        write_people(folder, people)


def write_people(folder: Path, people: People) -> None:
    """Write dataset.json of rendered people: every person a subject; labels follow from the seeds."""
    scenes = [(seed, scene) for seed in people.seeds for scene in range(SCENES)]
    labels = torch.cat([sample_cameras(seed, scene)[: people.views].to_eg3d() for seed, scene in scenes])
    pictures = [(seed, f"{seed:08d}/{scene}-{view}.png") for seed, scene in scenes for view in range(people.views)]
    subjects = [f"person-{seed:08d}" for seed, _ in pictures]
    write_index(folder, [path for _, path in pictures], labels, subjects, people.meta)


def scene_of(path: str) -> int:
    """Which scene a picture shows, by its name. Raises ConfigError for one that wasn't rendered here."""
    scene = Path(path).name.partition("-")[0]
    if scene not in map(str, range(SCENES)):
        raise ConfigError(f"{path}: which scene it shows isn't known; make the folder by training.judges.render")
    return int(scene)
