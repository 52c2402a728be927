from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core.camera_paths import CameraPoses, keyframes
from nvb_core.cameras import DEFAULT_FOV_DEG, RADIUS, orbit_rotation
from tests.web.picker_page import Picker, keys_text

pytestmark = pytest.mark.browser
Open = Callable[..., Picker]
SPHERE_MODULE = "/extensions/some pack-name/js/camera_picker/sphere.js"
PATH = [
    {"yaw_deg": -50, "pitch_deg": -20},
    {"yaw_deg": -10, "pitch_deg": 30, "radius": 3.2},
    {"yaw_deg": 55, "pitch_deg": 10, "roll_deg": 15, "fov_deg": 18},
]
FIELDS = ("yaw_deg", "pitch_deg", "roll_deg", "radius", "fov_deg")


def screenshot(picker: Picker, name: str, tmp_path: Path) -> np.ndarray:
    """(H, W, 3) uint8 of the node; also kept in $NVB_SCREENSHOTS, where that is set."""
    folder = Path(os.environ.get("NVB_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    picker.settle()
    picker.page.locator(".node").screenshot(path=folder / f"picker-{name}.png")
    with Image.open(folder / f"picker-{name}.png") as image:
        return np.asarray(image.convert("RGB"))


def random_keys(seed: int, count: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    low, high = [-180, -90, -30, 1, 5], [180, 90, 30, 5, 60]
    return [dict(zip(FIELDS, rng.uniform(low, high).tolist(), strict=True)) for _ in range(count)]


@pytest.mark.parametrize("views", [1, 2, 7, 24])
@pytest.mark.parametrize(
    "keys",
    [
        [{"yaw_deg": 20}],
        PATH,
        [{"yaw_deg": 0}, {"yaw_deg": 40, "pitch_deg": 90}, {"yaw_deg": -170}],
        [{"yaw_deg": 30}, {"yaw_deg": 30}, {"yaw_deg": 390}],
        random_keys(0, 3),
        random_keys(1, 6),
    ],
)
def test_path_is_that_of_the_core(page: Any, keys: list[dict[str, float]], views: int) -> None:
    defaults = {"pitch_deg": 0.0, "roll_deg": 0.0, "radius": RADIUS, "fov_deg": DEFAULT_FOV_DEG}
    complete = [defaults | key for key in keys]
    expected = keyframes(CameraPoses(**{name: [key[name] for key in complete] for name in FIELDS}), views)
    given = [{"pitch_deg": 0, "roll_deg": 0, "radius": None, "fov_deg": None} | key for key in keys]
    poses = page.evaluate(
        f"async ([keys, views]) => (await import('{SPHERE_MODULE}')).keyframes(keys, views)", [given, views]
    )
    for name in FIELDS:
        found = torch.tensor([pose[name] for pose in poses], dtype=torch.float64)
        difference = found - getattr(expected, name)
        if name == "yaw_deg":  # ±180 are one direction
            difference = (difference + 180) % 360 - 180
        assert difference.abs().max() < 1e-6, name


def test_the_views_on_the_path_are_drawn_where_they_are(open_picker: Open, tmp_path: Path) -> None:
    picker = open_picker(keys_text(*PATH), views=9)
    with_dots = screenshot(picker, "path", tmp_path).astype(int)
    picker.page.evaluate("node.widget('views').value = 0")
    without = screenshot(picker, "keys-only", tmp_path).astype(int)
    changed = np.abs(with_dots - without).max(2) > 40
    poses = keyframes(CameraPoses([k["yaw_deg"] for k in PATH], [k.get("pitch_deg", 0) for k in PATH]), 9)
    turn = orbit_rotation(torch.tensor([0.0]), torch.tensor([15.0]))[0]
    box = picker.page.locator(".node").bounding_box()
    for direction in orbit_rotation(poses.yaw_deg, poses.pitch_deg)[:, :, 2] @ turn:  # (3,) right, up, out
        x, y = picker.at(float(direction[0]), float(direction[1]))
        row, column = round(y - box["y"]), round(x - box["x"])
        is_key = any(
            np.allclose(direction, (orbit_rotation(*_angle(k))[0, :, 2] @ turn).numpy(), atol=1e-6) for k in PATH
        )
        assert is_key or changed[row - 5 : row + 6, column - 5 : column + 6].sum() >= 12


def _angle(key: dict[str, float]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([key["yaw_deg"]]), torch.tensor([key.get("pitch_deg", 0)])


def test_opposite_keys_are_pointed_out_where_there_is_a_path(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}, {"yaw_deg": 180}), views=5)
    assert "1 and 2 are opposite" in picker.problem
    picker.page.evaluate("node.widget('views').value = 0")
    assert picker.problem == ""


def test_follows_the_palette(open_picker: Open, tmp_path: Path) -> None:
    picker = open_picker(keys_text(*PATH), views=12)
    dark = screenshot(picker, "dark", tmp_path)
    picker.page.evaluate("document.documentElement.classList.add('light')")
    light = screenshot(picker, "light", tmp_path)
    assert dark.mean() < 80
    assert light.mean() > 170
    ink = picker.page.evaluate("getComputedStyle(document.querySelector('.nvb-numbers input')).color")
    assert ink == "rgb(34, 34, 34)"


@pytest.mark.parametrize("state", ["broken", "photo", "linked", "narrow"])
def test_states_are_shown(open_picker: Open, tmp_path: Path, state: str) -> None:
    """Pictures to look at; every control stays inside the node."""
    picker = open_picker(
        "{" if state == "broken" else keys_text(*({"yaw_deg": k["yaw_deg"]} for k in PATH), frame="input")
    )
    if state == "linked":
        picker.page.evaluate("() => { node.inputs[0].link = 3; node.onConnectionsChange(); }")
    if state == "narrow":
        picker.page.evaluate("node.box.style.width = '230px'")
    screenshot(picker, state, tmp_path)
    outside = picker.page.evaluate(
        """() => {
          const box = document.querySelector('.node').getBoundingClientRect();
          return [...document.querySelectorAll('.nvb-picker :is(button, input[type=number], canvas)')]
            .filter((e) => !e.closest('.nvb-keys') && e.getClientRects().length)
            .map((e) => e.getBoundingClientRect())
            .filter((r) => r.left < box.left || r.right > box.right || r.top < box.top || r.bottom > box.bottom).length;
        }"""
    )
    assert outside == 0


@pytest.mark.parametrize(("pixel_ratio", "zoom"), [(1, 1), (2, 1), (1.5, 2)])
def test_sharp_on_any_screen(browser: Any, address: str, pixel_ratio: float, zoom: float) -> None:
    page = browser.new_page(viewport={"width": 900, "height": 760}, device_scale_factor=pixel_ratio)
    page.goto(address)
    page.wait_for_function("window.app")
    Picker(page, keys_text({"yaw_deg": 0}), 0)
    page.evaluate(
        "(zoom) => { node.box.style.transform = `scale(${zoom})`; node.widget('picker').options.onDraw(); }", zoom
    )
    page.wait_for_function(
        """(scale) => {
          const canvas = document.querySelector('canvas');
          return Math.abs(canvas.width - canvas.clientWidth * scale) <= 1;
        }""",
        arg=pixel_ratio * zoom,
    )
    page.close()
