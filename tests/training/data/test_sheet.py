from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from nvb_core.sheet import CELL_PX, MARGIN_PX, TITLE_PX
from training.data import write_index
from training.data.sheet import PLOT_PX, draw_sheet

YAW = [40.0, 0.0, -40.0, 80.0]


def write_folder(folder: Path, known: int) -> None:
    """Two subjects of two grey pictures each; the first `known` have cameras at YAW."""
    paths = [f"{s}/{v}.png" for s in "ab" for v in range(2)]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (128, 128, 128)).save(folder / path)
    labels = Cameras.from_angles(YAW).to_eg3d()
    labels[known:] = math.nan
    write_index(folder, paths, labels, [path[0] for path in paths], {"margin": 1.25})


def is_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(picture.astype(int) - colour).max(axis=-1)) < 60


def test_axes_and_cameras_are_drawn(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    sheet = np.asarray(draw_sheet(tmp_path, rows=2, columns=2, seed=0))
    top = TITLE_PX + MARGIN_PX // 2
    cell = sheet[top : top + CELL_PX, MARGIN_PX : MARGIN_PX + CELL_PX]
    axes = 0.25 * torch.eye(3, dtype=torch.float64)
    ends = Cameras.from_angles(YAW[0]).project(axes)[0].numpy() * CELL_PX
    for end, colour in zip(ends, ((255, 0, 0), (0, 128, 0), (0, 0, 255)), strict=True):
        x, y = (0.6 * end + 0.4 * CELL_PX / 2).astype(int)  # on the way from the centre
        assert is_colour(cell[y - 2 : y + 3, x - 2 : x + 3], colour).any()

    above = sheet[-PLOT_PX - MARGIN_PX : -MARGIN_PX, MARGIN_PX : MARGIN_PX + PLOT_PX]
    scale = PLOT_PX / 2 / (2.7 * 1.15)  # the frontal camera is the farthest along an axis
    for yaw in np.radians(YAW):
        x, y = (PLOT_PX / 2 + scale * 2.7 * np.array([math.sin(yaw), math.cos(yaw)])).astype(int)
        assert is_colour(above[y, x], (224, 72, 46))


def test_unknown_cameras(tmp_path: Path) -> None:
    write_folder(tmp_path / "some", 1)
    write_folder(tmp_path / "none", 0)
    some, none = (draw_sheet(tmp_path / name, 2, 2, 0) for name in ("some", "none"))
    assert some.height == none.height + PLOT_PX + MARGIN_PX  # without any there is nothing to plot


def test_the_seed_chooses(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    first, again, other = (np.asarray(draw_sheet(tmp_path, 1, 1, seed)) for seed in (0, 0, 3))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        draw_sheet(tmp_path, 1, 1, 0)
