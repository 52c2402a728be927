from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy import ndimage, special
from torch import Tensor

from nvb_core.degradation_ops import BlurKernel, blur
from training.evaluation.benchmark import Benchmark, BenchmarkSettings
from training.evaluation.niqe import (
    FITTED_MODEL,
    FITTED_SIZE_PX,
    NaturalModel,
    fit_asymmetric,
    niqe,
    normalise,
    patch_features,
)

KNOWN_NIQE = 14.722


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Clean views (4, 3, 128, 128) of a head that the model wasn't fitted to."""
    benchmark = Benchmark(tmp_path_factory.mktemp("niqe"), BenchmarkSettings(4, FITTED_SIZE_PX))
    assert list(benchmark.render([1_000_005], workers=1)) == [1_000_005]
    return benchmark.load(1_000_005).targets


def textured(count: int, size: int = 64) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, size // 4, size // 4, generator=rng)
    fine = torch.rand(count, 3, size, size, generator=rng)
    return (F.interpolate(coarse, (size, size), mode="bilinear") * 1.4 + fine * 0.4 - 0.9).clamp(-1, 1)


def test_distance_of_known_distributions() -> None:
    eye = torch.eye(36).double()
    a, b = NaturalModel(torch.zeros(36).double(), eye), NaturalModel(torch.full((36,), 2.0).double(), 7 * eye)
    assert a.distance(b) == b.distance(a) == pytest.approx(math.sqrt(36 * 4 / 4))
    assert a.distance(a) == 0


@pytest.mark.parametrize("shape", [0.7, 1.0, 2.0, 4.0])
def test_fit_recovers_a_distribution(shape: float) -> None:
    rng = np.random.default_rng(0)
    size = rng.gamma(1 / shape, size=400_000) ** (1 / shape)  # |x| of a generalised Gaussian of scale 1
    left = rng.random(len(size)) < 2 / (2 + 3)  # sides take part by their scale
    samples = torch.from_numpy(np.where(left, -2 * size, 3 * size))[None]
    found, left_scale, right_scale = (float(value) for value in fit_asymmetric(samples))
    assert found == pytest.approx(shape, rel=0.02)
    assert left_scale == pytest.approx(2, rel=0.02)
    assert right_scale == pytest.approx(3, rel=0.02)


def test_normalising_agrees_with_scipy() -> None:
    gray = (textured(1)[:, :1].double() + 1) * 127.5
    image = gray[0, 0].numpy()

    def smooth(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, 7 / 6, mode="nearest", radius=3)

    mean = smooth(image)
    deviation = np.sqrt(np.abs(smooth(image * image) - mean * mean))
    normalised, found = normalise(gray)
    np.testing.assert_allclose(found[0, 0].numpy(), deviation, atol=1e-6)
    np.testing.assert_allclose(normalised[0, 0].numpy(), (image - mean) / (deviation + 1), atol=1e-6)


def brute_fit(samples: np.ndarray) -> tuple[float, float, float]:
    shapes = np.arange(200, 10001) / 1000
    curve = special.gamma(2 / shapes) ** 2 / (special.gamma(1 / shapes) * special.gamma(3 / shapes))
    left, right = (np.sqrt((side**2).mean()) for side in (samples[samples < 0], samples[samples > 0]))
    g = left / right
    wanted = np.abs(samples).mean() ** 2 / (samples**2).mean() * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    shape = shapes[np.argmin((curve - wanted) ** 2)]
    scale = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
    return shape, left * scale, right * scale


def brute_features(picture: np.ndarray, top: int, start: int, side: int) -> list[float]:
    """18 features of one patch of luminance in 0-255."""
    normalised = normalise(torch.from_numpy(picture)[None, None])[0][0, 0].numpy()
    patch = (slice(top, top + side), slice(start, start + side))
    shape, left, right = brute_fit(normalised[patch].ravel())
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = brute_fit((normalised * np.roll(normalised, shift, (0, 1)))[patch].ravel())
        mean = (right - left) * special.gamma(2 / shape) / special.gamma(1 / shape)
        features += [shape, mean, left, right]
    return features


def test_features_agree_with_a_loop_over_patches() -> None:
    images = textured(2)
    gray = np.tensordot((images.double().numpy() + 1) * 127.5, [0.2989, 0.587, 0.114], axes=(1, 0))
    features = patch_features(images)
    assert features.shape == (2 * 4, 36)
    row = 0
    for picture in gray:
        for top, start in ((0, 0), (0, 32), (32, 0), (32, 32)):
            expected = brute_features(picture, top, start, 32)
            np.testing.assert_allclose(features[row, :18].numpy(), expected, rtol=1e-6, atol=1e-9)
            row += 1


def test_flat_patches_do_not_count() -> None:
    images = textured(1)
    images[..., :32, :] = 0.5
    images[..., 32:, 40:] = 0.5
    assert len(patch_features(torch.full((1, 3, 64, 64), 0.25))) == 0
    assert len(patch_features(images)) < 4


def test_sharp_patches_are_the_contrasty_ones() -> None:
    images = textured(3)
    images[..., :32] *= 0.1
    assert torch.equal(patch_features(images, sharp_only=True), patch_features(images)[1::2])


def test_worse_pictures_are_less_natural(pictures: Tensor) -> None:
    def blurred(sigma: float) -> Tensor:
        return torch.stack([blur(image, BlurKernel("gaussian", 21, sigma, sigma)) for image in pictures]).clamp(-1, 1)

    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    clean = niqe(pictures)
    assert clean is not None
    for worse in ([blurred(0.7), blurred(1.5)], [(pictures + share * noise).clamp(-1, 1) for share in (0.05, 0.15)]):
        a, b = (niqe(images) for images in worse)
        assert a is not None
        assert b is not None
        assert clean + 0.5 < a < b


def test_a_model_survives_a_file(tmp_path: Path) -> None:
    model = NaturalModel.of(patch_features(textured(8)))
    model.save(tmp_path / "model.safetensors")
    assert NaturalModel.load(tmp_path / "model.safetensors").distance(model) == 0


def known_image() -> Tensor:
    """Waves and blocks in three colours (1, 3, 128, 128), the same on every machine."""
    y, x = np.indices((FITTED_SIZE_PX, FITTED_SIZE_PX))
    blocks = (x // 5 * 7 + y // 7 * 13) % 17 * 4
    grain = (x * 37 + y * 101 + x * y * 3) % 29
    waves = np.round(60 * np.sin(x / 9) * np.cos(y / 13)).astype(int)
    colours = [waves + blocks + grain + offset for offset in (40, 55, 70)]
    return torch.from_numpy(np.stack(colours).clip(0, 255) / 127.5 - 1).float()[None]


def brute_niqe(image: np.ndarray, half: np.ndarray) -> float:
    """By loops and NumPy, of luminance (128, 128) in 0-255 and the same at half the size."""
    rows = [[*brute_features(image, top, left, 32)] for top in range(0, 128, 32) for left in range(0, 128, 32)]
    rows_of_half = [[*brute_features(half, top, left, 16)] for top in range(0, 64, 16) for left in range(0, 64, 16)]
    features = np.concatenate([rows, rows_of_half], axis=1)
    model = load_file(FITTED_MODEL)
    mean, covariance = (model[key].numpy() for key in ("mean", "covariance"))
    off = features.mean(0) - mean
    return float(np.sqrt(off @ np.linalg.pinv((np.cov(features, rowvar=False) + covariance) / 2) @ off))


def test_value_of_a_known_image() -> None:
    """Fixed, so that no change of the code or of the model goes unseen, and what a second implementation says."""
    image = known_image()
    gray = np.tensordot((image[0].double().numpy() + 1) * 127.5, [0.2989, 0.587, 0.114], axes=(0, 0))
    half = F.interpolate(torch.from_numpy(gray)[None, None], scale_factor=0.5, mode="bicubic", antialias=True)
    assert niqe(image) == pytest.approx(brute_niqe(gray, half[0, 0].numpy()), rel=1e-4)
    assert niqe(image) == pytest.approx(KNOWN_NIQE, rel=1e-3)


def test_no_value_without_a_model_or_texture() -> None:
    assert niqe(textured(1, 64)) is None
    assert niqe(torch.zeros(2, 3, FITTED_SIZE_PX, FITTED_SIZE_PX)) is None
