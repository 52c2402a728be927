from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from tests.nodes.conftest import Pack


@pytest.fixture
def images(pack: Pack) -> Any:
    return pack.module("nodes.images")


def test_there_and_back_again_is_the_same_picture(images: Any) -> None:
    picture = torch.rand(2, 20, 30, 3)
    core = images.to_core(picture)
    assert core.shape == (2, 3, 20, 30)
    assert core.dtype == torch.float32
    torch.testing.assert_close(core[1, 2, 3, 4], picture[1, 3, 4, 2] * 2 - 1)
    torch.testing.assert_close(images.to_comfy(core), picture)


def test_alpha_is_laid_over_the_grey_that_files_are(images: Any, pack: Pack, tmp_path: Any) -> None:
    rgba = torch.randint(0, 256, (20, 30, 4), dtype=torch.uint8)
    Image.fromarray(rgba.numpy()).save(tmp_path / "rgba.png")
    from_file = pack.module("nvb_core.images").load_image(tmp_path / "rgba.png").pixels
    from_node = images.to_core(rgba[None].float() / 255)[0]
    assert (from_node - from_file).abs().max() <= 1.01 / 127.5  # Pillow rounds to 8 bits


def test_grey_pictures_become_rgb(images: Any) -> None:
    assert torch.equal(images.to_core(torch.full((1, 16, 16, 1), 0.5)), torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (torch.zeros(0, 32, 32, 3), "empty batch"),
        (torch.zeros(1, 32, 32, 2), "1, 3 or 4 channels"),
        (torch.zeros(32, 32, 3), r"expected \(B, H, W, C\)"),
        (torch.zeros(1, 8, 32, 3), "32×8 pixels"),
        (torch.tensor([0.0, float("nan")]).reshape(2, 1, 1, 1).expand(2, 32, 32, 3), "1 of the batch holds NaN"),
        (torch.full((1, 32, 32, 3), float("inf")), "0 of the batch holds NaN or infinite"),
    ],
)
def test_a_picture_that_is_none_is_one_clear_error(images: Any, pack: Pack, picture: torch.Tensor, says: str) -> None:
    with pytest.raises(pack.module("nvb_core.errors").ImageError, match=says):
        images.to_core(picture)


def test_crops_are_resized_only_if_square(images: Any, pack: Pack) -> None:
    crops = torch.rand(2, 3, 64, 64)
    assert images.square_crops(crops, 64) is crops
    half = images.square_crops(crops, 32)
    torch.testing.assert_close(half, torch.nn.functional.avg_pool2d(crops, 2), atol=0.15, rtol=0)
    with pytest.raises(pack.module("nvb_core.errors").ImageError, match="48×64 pixels; put Align Face"):
        images.square_crops(crops[..., :48], 32)


def test_preview_shows_views_in_reading_order(pack: Pack) -> None:
    views = torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 3, 4, 4)
    tiled = pack.module("nodes.preview").tiled(views)
    assert tiled.size == (12, 8)
    assert [tiled.getpixel((x, y))[0] for y in (0, 4) for x in (0, 4, 8)] == [0, 64, 128, 191, 255, 0]
    assert pack.module("nodes.preview").tiled(views.repeat(8, 1, 1, 1)).size == (16, 16)
