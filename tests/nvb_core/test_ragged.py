from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nvb_core.degradation_ops import BlurKernel, Noise, add_noise, add_noise_all, blur, blur_all, resize, resize_all
from nvb_core.jpeg import jpeg_roundtrip, jpeg_roundtrip_all
from nvb_core.ragged import RaggedImages, apply_where

SIZES = ((20, 31), (16, 40), (7, 9))


def ragged() -> tuple[RaggedImages, list[Tensor]]:
    """Images of SIZES in [0, 1] on one canvas whose rest is NaN, and each by itself."""
    rng = torch.Generator().manual_seed(0)
    alone = [torch.rand(3, *size, generator=rng) for size in SIZES]
    canvas = torch.full((3, 3, 22, 40), torch.nan)
    for place, image, (h, w) in zip(canvas, alone, SIZES, strict=True):
        place[:, :h, :w] = image
    return RaggedImages(canvas, SIZES), alone


def check(pixels: Tensor, expected: list[Tensor]) -> None:
    for found, image in zip(pixels, expected, strict=True):
        h, w = image.shape[-2:]
        torch.testing.assert_close(found[:, :h, :w], image, atol=2e-6, rtol=0)


def test_extended_replicates_each_image_s_own_edges() -> None:
    images, alone = ragged()
    extended = images.extended(4, 30, 50)
    assert extended.shape == (3, 3, 30, 50)
    for found, image in zip(extended, alone, strict=True):
        h, w = image.shape[-2:]
        assert torch.equal(found, F.pad(image[None], (4, 46 - w, 4, 26 - h), mode="replicate")[0])


def test_extended_of_one_size_needs_no_canvas() -> None:
    pixels = torch.rand(2, 3, 5, 6)
    assert torch.equal(RaggedImages.of(pixels).extended(0, 5, 6), pixels)
    larger = RaggedImages(F.pad(pixels, (0, 2, 0, 3), value=torch.nan), ((5, 6),) * 2)
    assert torch.equal(larger.extended(1, 8, 8), F.pad(pixels, (1, 1, 1, 2), mode="replicate"))


def test_apply_where_changes_only_those_with_an_option() -> None:
    images, _ = ragged()
    seen: list[object] = []

    def double(part: RaggedImages, options: list[str]) -> Tensor:
        seen.append((part.sizes, options))
        return part.pixels * 2

    changed = apply_where(images, ["a", None, "b"], double)
    assert seen == [((SIZES[0], SIZES[2]), ["a", "b"])]
    assert changed.sizes == SIZES
    for i, factor in enumerate((2, 1, 2)):
        torch.testing.assert_close(changed.pixels[i], images.pixels[i] * factor, equal_nan=True)
    assert apply_where(images, [None] * 3, double) is images


def test_blur_of_each_image_by_its_own_kernel() -> None:
    images, alone = ragged()
    kernels = [
        BlurKernel("gaussian", 21, 3.0, 1.0, 0.4),
        BlurKernel("sinc", 7, cutoff_rad=2.0),
        BlurKernel("plateau", 1),
    ]
    check(blur_all(images, kernels), [blur(image, kernel) for image, kernel in zip(alone, kernels, strict=True)])


def test_resize_of_each_image_to_its_own_size() -> None:
    images, alone = ragged()
    sizes, modes = [(33, 12), (16, 40), (3, 30)], ["bicubic", "bilinear", "area"]
    resized = resize_all(images, sizes, modes)  # type: ignore[arg-type]
    assert resized.sizes == tuple(sizes)
    assert resized.pixels.shape == (3, 3, 33, 40)
    expected = [resize(image, *size, mode) for image, size, mode in zip(alone, sizes, modes, strict=True)]  # type: ignore[arg-type]
    check(resized.pixels, expected)
    assert torch.equal(expected[1], alone[1])


def test_noise_of_each_image_from_its_own_generator() -> None:
    images, alone = ragged()
    noises = [Noise("poisson", 2.0, True), None, Noise("gaussian", 9.0, False)]
    found = add_noise_all(images, noises, [torch.Generator().manual_seed(i) for i in range(3)])
    expected = [
        image if noise is None else add_noise(image, noise, torch.Generator().manual_seed(i))
        for i, (image, noise) in enumerate(zip(alone, noises, strict=True))
    ]
    check(found.pixels, expected)


def test_gray_and_coloured_poisson_noise_together() -> None:
    images, alone = ragged()
    noises = [Noise("poisson", 2.0, gray) for gray in (True, False, True)]
    found = add_noise_all(images, noises, [torch.Generator().manual_seed(i) for i in range(3)])
    check(found.pixels, [add_noise(alone[i], noises[i], torch.Generator().manual_seed(i)) for i in range(3)])


@pytest.mark.parametrize("qualities", [(30, 75, 95), (5, 5, 100)])
def test_jpeg_of_each_image_at_its_own_quality(qualities: tuple[int, ...]) -> None:
    images, alone = ragged()
    expected = [jpeg_roundtrip(image, quality) for image, quality in zip(alone, qualities, strict=True)]
    check(jpeg_roundtrip_all(images, qualities), expected)
