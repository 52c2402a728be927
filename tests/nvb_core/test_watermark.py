from __future__ import annotations

import pytest
import torch

from nvb_core.errors import ConfigError
from nvb_core.watermark import add_watermark, watermark_box

SIZES = [(128, 128), (512, 512), (96, 200)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_changes_only_the_corner(height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width) * 2 - 1
    before = images.clone()
    changed = (add_watermark(images) != images).any(dim=1)
    top, left, chip_height, chip_width = watermark_box(height, width)
    assert torch.equal(images, before)
    assert not changed[:, :top].any()
    assert not changed[:, :, :left].any()
    assert not changed[:, top + chip_height :].any()
    assert not changed[:, :, left + chip_width :].any()
    assert changed[:, top : top + chip_height, left : left + chip_width].float().mean() > 0.9
    assert chip_height * chip_width < 0.05 * height * width


@pytest.mark.parametrize("background", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("size", [128, 512])
def test_letters_stand_out_on_any_background(background: float, size: int) -> None:
    marked = add_watermark(torch.full((1, 3, size, size), background))
    top, left, height, width = watermark_box(size, size)
    chip = marked[0, 0, top : top + height, left : left + width]
    inside, fill = chip[height // 4 : -height // 4, width // 5 : -width // 5], chip[height // 2, width // 7]
    assert inside.max() - fill > 0.8
    assert (inside > fill + 0.6).float().mean() > 0.2
    assert (inside < fill + 0.2).float().mean() > 0.2


def test_is_deterministic_and_keeps_range_and_dtype() -> None:
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 2 - 1
    first, second = add_watermark(images), add_watermark(images)
    assert torch.equal(first, second)
    assert first.dtype == torch.float64
    assert first.abs().max() <= 1


def test_strength_scales_the_change() -> None:
    images = torch.full((1, 3, 128, 128), -1.0)
    full, half, none = (add_watermark(images, s) - images for s in (1.0, 0.5, 0.0))
    assert torch.allclose(half, full / 2, atol=1e-6)
    assert not none.any()


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (512, 512, (441, 413, 56, 84)),
        (96, 200, (81, 179, 12, 18)),
        (200, 96, (185, 75, 12, 18)),
        (17, 17, (4, 0, 12, 17)),
        (8, 8, (0, 0, 8, 8)),
    ],
)
def test_place_of_the_mark(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    assert watermark_box(height, width) == box


def test_tiny_images_are_covered_not_refused() -> None:
    assert add_watermark(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_out_of_range(strength: float) -> None:
    with pytest.raises(ConfigError, match="strength"):
        add_watermark(torch.zeros(1, 3, 64, 64), strength)


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 3, 64), (1, 4, 64, 64)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="shape"):
        add_watermark(torch.zeros(shape))
