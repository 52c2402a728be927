"""Write a folder of rendered heads: PNGs and dataset.json, by several processes, resumable at any moment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from nvb_core.staging import locked, writing

from ..processes import in_processes
from .views import sample_view_cameras, with_margin

if TYPE_CHECKING:
    from .identity import Identity

INDEX = "dataset.json"
INDEX_EVERY = 100  # finished identities
HELD_OUT_SEED = 10**6  # from here on heads are for measuring, and never trained on
SEEDS = 10**8  # of which a subject's folder has the eight digits


@dataclass(frozen=True)
class HeadSet:
    """What a folder of heads holds; everything in it follows from these values."""

    first_seed: int
    count: int
    views: int
    size: int  # pixels of the canonical view, without the margin
    samples: int  # rays a pixel
    margin: float  # images show this many times the canonical view, at the same pixel scale
    wild: float = 0.0  # share of heads that nobody has

    def __post_init__(self) -> None:
        limits = {
            "count": (1, 10_000_000),
            "first_seed": (0, SEEDS - self.count),
            "views": (1, 100),
            "size": (16, 2048),
            "samples": (1, 16),
            "margin": (1.0, 2.0),
            "wild": (0.0, 1.0),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name.replace('_', '-')} is {value}; expected {low}..{high}")
        if self.samples not in (1, 4, 9, 16):
            raise ConfigError(f"samples is {self.samples}; expected 1, 4, 9 or 16")

    @property
    def image_size(self) -> int:
        return round(self.size * self.margin)

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)

    def cameras(self, seed: int) -> Cameras:
        return with_margin(sample_view_cameras(seed, self.views), self.image_size / self.size)

    def identity(self, seed: int) -> Identity:
        from .identity import sample_identity, sample_wild_identity

        wild = np.random.default_rng([seed, 11]).random() < self.wild
        return sample_wild_identity(seed) if wild else sample_identity(seed)

    def meta(self) -> dict[str, Any]:
        """What must agree for two runs to fill one folder."""
        return {
            "generator": "nvb-face heads 1",
            "views": self.views,
            "size": self.size,
            "samples": self.samples,
            "margin": self.image_size / self.size,
            "wild": self.wild,
        }


def image_name(seed: int, view: int) -> str:
    return f"{seed:08d}/{view:02d}.png"


def pending(folder: Path, heads: HeadSet) -> list[int]:
    """Seeds whose images aren't all there yet. Raises ConfigError where the folder holds another kind of set."""
    from ..data import require_meta

    require_meta(folder, heads.meta(), of_older={"wild": 0.0})
    return [seed for seed in heads.seeds if not (folder / f"{seed:08d}").is_dir()]


def write_set_index(folder: Path, heads: HeadSet) -> None:
    """Write dataset.json of all finished subjects in the folder; their labels follow from their seeds."""
    from ..data import write_index

    seeds = sorted(int(path.name) for path in _subjects(folder))
    paths = [image_name(seed, view) for seed in seeds for view in range(heads.views)]
    subjects = [f"heads-{seed:08d}" for seed in seeds for _ in range(heads.views)]
    labels = torch.cat([torch.zeros(0, 25, dtype=torch.float64), *(heads.cameras(seed).to_eg3d() for seed in seeds)])
    write_index(folder, paths, labels, subjects, heads.meta())


def render_subject(folder: Path, heads: HeadSet, seed: int, device: str) -> None:
    """Render one identity into a hidden folder and move it into place whole."""
    from .expression import sample_expression
    from .render import render
    from .scene import build_scene

    scene = build_scene(heads.identity(seed), sample_expression(seed), heads.size, device)
    views = render(scene, heads.cameras(seed), heads.image_size, heads.samples)
    part = folder / f".{seed:08d}.{os.getpid()}"
    try:
        part.mkdir()
        for view, rgb in enumerate(views.rgb):
            pixels = ((rgb + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(part / f"{view:02d}.png", compress_level=3)
        if not (folder / f"{seed:08d}").exists():  # a worker of a killed run may have outlived it
            os.replace(part, folder / f"{seed:08d}")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def prepare(device: str) -> None:
    """Bake the basis and compile the kernels once, before workers would each do so."""
    from .device import wp
    from .expression import NEUTRAL
    from .identity import sample_identity
    from .render import render
    from .scene import build_scene

    if device == "cuda" and not wp.is_cuda_available():
        raise ConfigError("device is cuda, but there is no CUDA device here; use --device cpu")
    render(build_scene(sample_identity(0), NEUTRAL, 32, device), Cameras.from_angles(0.0), 32, 1)


def render_set(folder: Path, heads: HeadSet, workers: int, device: str) -> Iterator[int]:
    """Render what is missing, yielding each finished seed. Raises OutputError where the folder can't be written, and
    OccupiedError where something is missing and another process is at it.

    dataset.json is brought up to date now and then, so that training can start on what is there.
    """
    if _is_finished(folder, heads):  # many may ask at once
        return
    with locked(folder), writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        seeds = pending(folder, heads)
        for stale in folder.glob(".????????.*"):
            shutil.rmtree(stale, ignore_errors=True)
        write_set_index(folder, heads)
        fresh, written = 0, heads.count - len(seeds)
        for seed in _render_seeds(folder, heads, seeds, workers, device):
            yield seed
            fresh += 1
            if fresh > max(INDEX_EVERY, written // 4):
                write_set_index(folder, heads)
                fresh, written = 0, written + fresh
        write_set_index(folder, heads)


def _is_finished(folder: Path, heads: HeadSet) -> bool:
    """Whether nothing is missing, and the index is of what is there."""
    if pending(folder, heads) or not (folder / INDEX).exists():
        return False
    labels = json.loads((folder / INDEX).read_text()).get("labels", [])
    return {name.partition("/")[0] for name, *_ in labels} == {path.name for path in _subjects(folder)}


def _subjects(folder: Path) -> Iterator[Path]:
    """Folders of finished subjects."""
    return folder.glob("[0-9]" * 8)


def _render_seeds(folder: Path, heads: HeadSet, seeds: list[int], workers: int, device: str) -> Iterator[int]:
    if not seeds:
        return
    prepare(device)
    for _, _, seed, _ in in_processes(render_subject, [(folder, heads, seed, device) for seed in seeds], workers):
        yield seed


def contact_sheet(folder: Path, heads: HeadSet, rows: int = 12) -> Image.Image:
    """The first identities of the set, a row each, all views side by side."""
    seeds = list(heads.seeds)[:rows]
    lines = []
    for seed in seeds:
        line = []
        for view in range(min(heads.views, 8)):
            with Image.open(folder / image_name(seed, view)) as image:
                line.append(np.asarray(image.convert("RGB")))
        lines.append(np.concatenate(line, 1))
    return Image.fromarray(np.concatenate(lines, 0))
