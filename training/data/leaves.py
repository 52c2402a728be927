"""Dead leaves: pictures of nothing, made of shapes that cover one another as things do (Matheron 1968).

    OUT/leaves.json  settings, written first
    OUT/00000000.png ..., OUT/dataset.json (no cameras)

A network that has only seen heads restores whatever a photo holds as if it were one of them. These teach it edges,
strands and textures of every kind, as Achddou et al. 2021 train restoration. All values are chosen.
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from rich.console import Console
from rich.progress import track

from nvb_core.errors import ConfigError
from nvb_core.staging import locked, write_atomically, writing

from .index import INDEX_NAME, write_index

SETTINGS_NAME = "leaves.json"
SHAPES = (60, 500)  # of a picture
SMALL, LARGE = (0.015, 0.06), (0.25, 1.1)  # least and largest radius, in sides of the picture
COLORS, SPREAD = (2, 12), (5.0, 50.0)  # of a palette, and how far a shape's is from it, of 255
SUPERSAMPLING = 2


def write_leaves(out: Path, count: int, size: int, margin: float, first_seed: int) -> int:
    """Draw the pictures of size · margin pixels a side that aren't there yet, and index all -> how many were drawn.

    Raises ConfigError where the folder holds something else, OutputError where it can't be written, and OccupiedError
    if another process is at it.
    """
    side = round(size * margin)
    meta = {"generator": "nvb-face data leaves 1", "size": size, "margin": side / size}
    with locked(out), writing(out):
        out.mkdir(parents=True, exist_ok=True)
        _claim(out, meta)
        names = [f"{seed:08d}.png" for seed in range(first_seed, first_seed + count)]
        missing = [name for name in names if not (out / name).exists()]
        for name in track(missing, "drawing", console=Console(stderr=True)):
            picture = draw_leaves(np.random.default_rng(int(name[:8])), side)
            write_atomically(out / name, partial(picture.save, format="PNG"))
        found = sorted(path.name for path in out.glob("[0-9]" * 8 + ".png"))
        labels = torch.full((len(found), 25), math.nan, dtype=torch.float64)
        write_index(out, found, labels, [f"leaves-{name[:8]}" for name in found], meta)
    return len(missing)


def _claim(out: Path, meta: dict[str, Any]) -> None:
    """Write the settings that all pictures of the folder have; ConfigError if it has others, or pictures without."""
    settings = out / SETTINGS_NAME
    if not settings.exists():
        if any(out.glob("*.png")) or (out / INDEX_NAME).exists():
            raise ConfigError(f"{out} already holds pictures that aren't dead leaves; choose another --out")
        write_atomically(settings, lambda partial: partial.write_text(json.dumps(meta), encoding="utf-8"))
    try:
        found = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{settings} can't be read ({error}); choose another --out") from None
    if found != meta:
        raise ConfigError(f"{out} already holds other pictures ({found}, not {meta}); choose another --out")


def draw_leaves(rng: np.random.Generator, size: int) -> Image.Image:
    """One picture of size² pixels, a pure function of the generator's state."""
    picture = _shapes(rng, size * SUPERSAMPLING)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.004, 0.024) * size * SUPERSAMPLING))
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS), np.float32) / 255
    grey, saturation = pixels.mean(2, keepdims=True), rng.beta(1, 2.2)
    light = _noise(rng, 4, size)
    pixels = (grey + saturation * (pixels - grey)) ** math.exp(rng.uniform(-1, 1))
    pixels = pixels * (1 + 0.25 * light) + 0.05 * light
    if rng.random() < 0.4:
        pixels += rng.uniform(0.01, 0.08) * _noise(rng, int(rng.integers(16, 129)), size)
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def _shapes(rng: np.random.Generator, side: int) -> Image.Image:
    palette = rng.integers(0, 256, (int(rng.integers(*COLORS)), 3))
    spread, count = rng.uniform(*SPREAD), int(rng.integers(*SHAPES))
    low, high = rng.uniform(*SMALL) * side, rng.uniform(*LARGE) * side
    # As many of each size as if one zoomed in and out of the world: density falls with the cube of the radius.
    radii = 1 / np.sqrt(high**-2 + rng.random(count) * (low**-2 - high**-2))
    if rng.random() < 0.6:
        radii = np.sort(radii)[::-1]  # small ones on top
    picture = Image.new("RGB", (side, side), _rgb(rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(picture)
    for radius in radii.tolist():
        color = _rgb(palette[rng.integers(len(palette))] + rng.normal(0, spread, 3))
        outline, closed = _outline(rng, radius)
        turn, place = rng.uniform(0, 2 * math.pi), rng.uniform(0, side, 2)
        rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        corners = [(float(x), float(y)) for x, y in outline @ rotation + place]
        if closed:
            draw.polygon(corners, fill=color)
        else:
            draw.line(corners, fill=color, width=max(1, round(rng.uniform(0.003, 0.018) * side)))
    return picture


def _outline(rng: np.random.Generator, radius: float) -> tuple[np.ndarray, bool]:
    """Corners (M, 2) of an ellipse, a polygon or a strand about the origin, and whether it is filled."""
    kind = rng.choice(3, p=(0.5, 0.3, 0.2))
    if kind == 2:
        along = np.linspace(-1, 1, 9)
        return 3 * radius * np.stack([along, rng.normal(0, 0.4) * along**2], 1), False
    corners = int(rng.integers(3, 7)) if kind else 18
    angles = np.sort(rng.uniform(0, 2 * math.pi, corners)) if kind else np.linspace(0, 2 * math.pi, corners, False)
    flat = 1.0 if kind else rng.uniform(0.3, 1)
    return radius * np.stack([np.cos(angles), flat * np.sin(angles)], 1), True


def _noise(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise (size, size, 1) of about unit deviation with this many cells on a side."""
    values = torch.from_numpy(rng.normal(0, 1, (1, 1, cells, cells)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(values, size=(size, size), mode="bicubic")
    return smooth[0, 0, :, :, None].numpy()


def _rgb(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in values.clip(0, 255))
    return (red, green, blue)
