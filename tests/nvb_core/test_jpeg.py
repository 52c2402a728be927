from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nvb_core.errors import ConfigError
from nvb_core.jpeg import jpeg_roundtrip, quantization_tables


def picture(height: int, width: int) -> Tensor:
    """A photo-like image (3, H, W) in [0, 1], multiples of 1/255: smooth colour, edges and some grain."""
    skimage_data = pytest.importorskip("skimage.data")
    photo = torch.from_numpy(skimage_data.astronaut()[: 2 * height : 2, 80 : 80 + 2 * width : 2].copy())
    return photo.permute(2, 0, 1).float() / 255


def pillow_roundtrip(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    array = (image * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.mark.parametrize("quality", [5, 10, 30, 49, 50, 75, 95, 100])
@pytest.mark.parametrize("size", [(128, 128), (96, 80), (51, 67)])
def test_agrees_with_libjpeg(size: tuple[int, int], quality: int) -> None:
    image = picture(*size)
    assert psnr(jpeg_roundtrip(image, quality), pillow_roundtrip(image, quality)) > 44


def test_is_a_real_compression() -> None:
    image = picture(128, 128)
    errors = [psnr(jpeg_roundtrip(image, quality), image) for quality in (10, 30, 60, 95)]
    assert errors == sorted(errors)
    assert errors[0] < 29
    assert errors[-1] > 35


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16)])
def test_tiny_images_keep_shape_and_range(size: tuple[int, int]) -> None:
    decoded = jpeg_roundtrip(torch.rand(3, *size, generator=torch.Generator().manual_seed(0)), 40)
    assert decoded.shape == (3, *size)
    assert 0 <= decoded.min() <= decoded.max() <= 1
    torch.testing.assert_close(decoded * 255, (decoded * 255).round())


def test_tables_are_pillows() -> None:
    for quality in (1, 30, 50, 77, 100):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        # Pillow lists each table in natural order since 8.3.
        expected = Image.open(buffer).quantization  # type: ignore[attr-defined]
        tables = quantization_tables(quality)
        assert tables[0].tolist() == expected[0]
        assert tables[1].tolist() == expected[1]


@pytest.mark.parametrize("quality", [0, 101])
def test_impossible_quality(quality: int) -> None:
    with pytest.raises(ConfigError, match="1–100"):
        jpeg_roundtrip(torch.zeros(3, 8, 8), quality)
