from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nvb_core.degradation import (
    PRESETS,
    Degradation,
    DegradationMix,
    DegradationPass,
    DegradationRanges,
    PassRanges,
    degrade,
    degrade_together,
    sample_degradation,
)
from nvb_core.degradation_ops import BlurKernel, Noise, add_noise, blur, resize
from nvb_core.errors import ConfigError

few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32)


def face(size: int = 128) -> Tensor:
    """A real face (1, 3, size, size) in [-1, 1]."""
    skimage_data = pytest.importorskip("skimage.data")
    photo = torch.from_numpy(skimage_data.astronaut()[0:220, 115:335].copy()).permute(2, 0, 1).float()
    return F.interpolate(photo[None], (size, size), mode="bilinear", antialias=True) / 127.5 - 1


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """(B,) PSNR of images (B, 3, H, W) in [-1, 1]."""
    return 10 * torch.log10(4 / (a - b).square().flatten(1).mean(1))


def sampled(preset: str, count: int) -> list[Degradation]:
    return [sample_degradation(seed, PRESETS[preset]) for seed in range(count)]


# --- kernels ---


@few
@given(seeds)
def test_kernels_are_normalised_and_point_symmetric(seed: int) -> None:
    degradation = sample_degradation(seed)
    for kernel in (degradation.first.blur, degradation.second.blur, degradation.final_sinc):
        if kernel is not None:
            weights = kernel.weights()
            assert weights.shape == (kernel.size_px, kernel.size_px)
            assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
            torch.testing.assert_close(weights, weights.flip(0, 1))


def test_gaussian_kernel_has_the_variances_and_axes_asked_for() -> None:
    weights = BlurKernel("gaussian", 41, sigma_x_px=4.0, sigma_y_px=2.0, rotation_rad=math.pi / 6).weights()
    axis = torch.arange(41.0, dtype=torch.float64) - 20
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    along = math.cos(math.pi / 6) * x + math.sin(math.pi / 6) * y
    across = math.cos(math.pi / 6) * y - math.sin(math.pi / 6) * x
    assert float((weights * along**2).sum()) == pytest.approx(16, rel=1e-3)
    assert float((weights * across**2).sum()) == pytest.approx(4, rel=1e-3)
    assert float((weights * along * across).sum()) == pytest.approx(0, abs=1e-3)


def test_beta_one_is_a_gaussian() -> None:
    gaussian, generalized = BlurKernel("gaussian", 13, 2.0, 1.0, 0.3), BlurKernel("generalized", 13, 2.0, 1.0, 0.3, 1.0)
    torch.testing.assert_close(gaussian.weights(), generalized.weights())


def test_sinc_passes_low_and_stops_high_frequencies() -> None:
    kernel = BlurKernel("sinc", 21, cutoff_rad=math.pi / 3)
    response = torch.fft.fft2(kernel.weights(), s=(64, 64)).abs()  # bin k is 2 pi k / 64 rad/px; the cutoff is bin 10.7
    assert float(response[0, 5]) == pytest.approx(1, abs=0.1)
    assert float(response[0, 16:32].max()) < 0.1


@pytest.mark.parametrize("size", [(40, 33), (5, 7)])
def test_blur_equals_direct_convolution(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(1))
    kernel = BlurKernel("gaussian", 21, 3.0, 1.0, 0.7)
    padded = F.pad(image[:, None], (10,) * 4, mode="replicate")
    direct = F.conv2d(padded, kernel.weights().float()[None, None])[:, 0]
    torch.testing.assert_close(blur(image, kernel), direct, atol=1e-5, rtol=0)


# --- resize and noise ---


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("target", [(19, 50), (61, 61), (40, 33)])
def test_resize_equals_interpolate(mode: Any, target: tuple[int, int]) -> None:
    image = torch.rand(3, 40, 33, generator=torch.Generator().manual_seed(1))
    align = None if mode == "area" else False
    expected = F.interpolate(image[None], target, mode=mode, align_corners=align)[0]
    torch.testing.assert_close(resize(image, *target, mode), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("gray", [False, True])
def test_noise_statistics(gray: bool) -> None:
    image = torch.full((3, 100, 100), 0.25)
    gaussian = add_noise(image, Noise("gaussian", 10.0, gray), torch.Generator().manual_seed(0)) - image
    assert float(gaussian.std()) * 255 == pytest.approx(10, rel=0.03)
    poisson = add_noise(image, Noise("poisson", 2.0, gray), torch.Generator().manual_seed(0)) - image
    assert float(poisson.std()) == pytest.approx(2 * math.sqrt(0.25 / 256), rel=0.03)
    for field in (gaussian, poisson):
        assert float(field.mean()) == pytest.approx(0, abs=2e-3)
        assert bool((field[0] == field[1]).all()) == gray


# --- sampling ---


def check_pass(order: DegradationPass, ranges: PassRanges) -> None:
    if order.blur is not None and order.blur.kind != "sinc":
        assert all(
            ranges.sigma_px[0] <= s <= ranges.sigma_px[1] for s in (order.blur.sigma_x_px, order.blur.sigma_y_px)
        )
    if order.blur is not None:
        assert order.blur.size_px in ranges.kernel_sizes_px
    assert ranges.scale[0] <= order.scale <= ranges.scale[1]
    if order.noise is not None:
        low, high = ranges.gaussian_level if order.noise.kind == "gaussian" else ranges.poisson_level
        assert low <= order.noise.level <= high
    if order.jpeg_quality is not None:
        assert ranges.jpeg_quality[0] <= order.jpeg_quality <= ranges.jpeg_quality[1]


@few
@given(seeds, st.sampled_from(["level0", "level1", "level2"]))
def test_parameters_lie_in_their_ranges(seed: int, preset: str) -> None:
    ranges = PRESETS[preset]
    assert isinstance(ranges, DegradationRanges)
    degradation = sample_degradation(seed, ranges)
    check_pass(degradation.first, ranges.first)
    check_pass(degradation.second, ranges.second)
    assert ranges.final_scale[0] <= degradation.final_scale <= ranges.final_scale[1]


def test_published_frequencies() -> None:
    drawn = sampled("level2", 3000)
    kernels = [d.first.blur for d in drawn if d.first.blur is not None]
    assert len(kernels) == 3000

    def share(flags: list[bool]) -> float:
        return sum(flags) / len(flags)

    assert share([k.kind == "sinc" for k in kernels]) == pytest.approx(0.1, abs=0.02)
    bells = [k for k in kernels if k.kind != "sinc"]
    isotropic = [k.sigma_x_px == k.sigma_y_px for k in bells]
    assert share(isotropic) == pytest.approx(0.69, abs=0.03)
    assert share([k.kind == "plateau" for k in bells]) == pytest.approx(0.15, abs=0.02)
    assert share([d.second.blur is not None for d in drawn]) == pytest.approx(0.8, abs=0.03)
    assert share([d.final_sinc is not None for d in drawn]) == pytest.approx(0.8, abs=0.03)
    assert share([d.first.scale < 1 for d in drawn]) == pytest.approx(0.7, abs=0.03)
    assert share([d.first.scale > 1 for d in drawn]) == pytest.approx(0.2, abs=0.03)
    assert share([d.jpeg_before_sinc for d in drawn]) == pytest.approx(0.5, abs=0.03)
    noises = [d.first.noise for d in drawn if d.first.noise is not None]
    assert share([n.gray for n in noises]) == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("preset", PRESETS)
def test_sampling_is_determined_by_the_seed(preset: str) -> None:
    ranges = PRESETS[preset]
    assert sample_degradation(5, ranges) == sample_degradation(np.random.default_rng(5), ranges)
    rng = np.random.default_rng(5)
    assert sample_degradation(rng, ranges) != sample_degradation(rng, ranges)


def test_training_covers_every_level() -> None:
    levels = psnr(face().expand(80, -1, -1, -1), degrade(face().expand(80, -1, -1, -1), sampled("train", 80)))
    assert float(levels.max()) > 28
    assert float(levels.min()) < 19


@pytest.mark.parametrize("bad", [{"sigma_px": (2.0, 1.0)}, {"gray_probability": 1.5}, {"jpeg_quality": (90, 30)}])
def test_bad_ranges(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        PassRanges(**bad)


def test_a_mix_has_parts_of_positive_weight() -> None:
    for parts in ((), ((0.0, DegradationRanges()), (1.0, DegradationRanges()))):
        with pytest.raises(ConfigError, match="positive weight"):
            DegradationMix(parts)


def test_every_stage_alone_is_a_change() -> None:
    assert Degradation().is_identity
    for order in (
        DegradationPass(blur=BlurKernel("gaussian", 7)),
        DegradationPass(scale=0.5),
        DegradationPass(noise=Noise("gaussian", 1.0, False)),
        DegradationPass(jpeg_quality=90),
    ):
        assert not order.is_identity
        assert not Degradation(first=order).is_identity
        assert not Degradation(second=order).is_identity
    assert not Degradation(final_scale=0.5).is_identity
    assert not Degradation(final_sinc=BlurKernel("sinc", 7, cutoff_rad=2.0)).is_identity


# --- JSON ---


@few
@given(seeds, st.sampled_from(sorted(PRESETS)))
def test_json_round_trip(seed: int, preset: str) -> None:
    degradation = sample_degradation(seed, PRESETS[preset])
    assert Degradation.from_dict(json.loads(json.dumps(degradation.to_dict()))) == degradation


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("final_scale",), 0, "final_scale"),
        (("final_scale",), 1.01, "final_scale"),
        (("final_scale",), math.nan, "final_scale"),
        (("final_scale",), "half", "final_scale"),
        (("noise_seed",), -1, "noise_seed"),
        (("noise_seed",), 2**63, "noise_seed"),
        (("surprise",), 1, "surprise"),
        (("first",), 3, "DegradationPass"),
        (("first", "scale"), 4.01, "scale"),
        (("first", "resize_filter"), "magic", "magic"),
        (("first", "jpeg_quality"), 0, "JPEG quality"),
        (("first", "jpeg_quality"), 101, "JPEG quality"),
        (("first", "jpeg_quality"), 50.5, "JPEG quality"),
        (("first", "blur", "size_px"), 8, "odd"),
        (("first", "blur", "kind"), "box", "box"),
        (("first", "blur", "sigma_x_px"), 0, "sigma_x_px"),
        (("first", "noise", "level"), -1, "noise level"),
        (("first", "noise", "kind"), "salt", "salt"),
    ],
)
def test_bad_json_is_one_line_that_names_the_value(path: tuple[str, ...], value: object, complaint: str) -> None:
    values = Degradation(DegradationPass(blur=BlurKernel("gaussian", 7), noise=Noise("gaussian", 1.0, False))).to_dict()
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ConfigError, match=complaint) as caught:
        Degradation.from_dict(values)
    assert "\n" not in str(caught.value)


# --- degrade ---


def test_level0_changes_nothing() -> None:
    image = face()
    for degradation in sampled("level0", 20):
        assert torch.equal(degrade(image, [degradation], [7]), image)
    assert torch.equal(degrade(image, [Degradation()]), image)


def test_levels_hit_their_marks() -> None:
    images = face().expand(48, -1, -1, -1)
    weak, strong = (float(psnr(images, degrade(images, sampled(p, 48))).mean()) for p in ("level1", "level2"))
    assert 22.5 < weak < 25.5
    assert 18 < strong < 21


@pytest.mark.parametrize("size", [(96, 80), (24, 24), (51, 67)])
def test_any_size_keeps_shape_range_and_finiteness(size: tuple[int, int]) -> None:
    images = torch.rand(24, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    degraded = degrade(images, sampled("level2", 24))
    assert degraded.shape == images.shape
    assert bool(degraded.isfinite().all())
    assert -1 <= float(degraded.min()) <= float(degraded.max()) <= 1


def test_result_depends_on_its_own_item_only() -> None:
    images, degradations = face().expand(6, -1, -1, -1), sampled("train", 6)
    together = degrade(images, degradations, range(6))
    alone = torch.cat([degrade(images[i : i + 1], [degradations[i]], [i]) for i in range(6)])
    assert torch.equal(together, alone)


def test_views_share_everything_but_the_noise_field() -> None:
    noisy = Degradation(DegradationPass(noise=Noise("gaussian", 20.0, False)), noise_seed=3)
    image = torch.zeros(1, 3, 64, 64)
    first, second, again = (degrade(image, [noisy], [seed]) for seed in (1, 2, 1))
    assert torch.equal(first, again)
    assert float((first - second).std()) == pytest.approx(math.sqrt(2) * 40 / 255, rel=0.05)
    quiet = replace(noisy, first=DegradationPass(blur=BlurKernel("gaussian", 9, 2.0, 2.0)))
    assert torch.equal(degrade(face(), [quiet], [1]), degrade(face(), [quiet], [2]))


def test_noise_seed_matters() -> None:
    noisy = Degradation(DegradationPass(noise=Noise("poisson", 1.0, True)))
    assert not torch.equal(degrade(face(), [noisy]), degrade(face(), [replace(noisy, noise_seed=1)]))


def test_mismatched_lengths() -> None:
    with pytest.raises(ValueError, match="2 images, 1 degradations"):
        degrade(torch.zeros(2, 3, 8, 8), [Degradation()])
    with pytest.raises(ValueError, match="must be"):
        degrade(torch.zeros(1, 1, 8, 8), [Degradation()])


# --- many at once ---


@pytest.mark.parametrize("size", [(128, 128), (51, 67)])
def test_together_equals_one_by_one(size: tuple[int, int]) -> None:
    images = F.interpolate(face(), size).expand(24, -1, -1, -1)
    degradations = [d for preset in PRESETS for d in sampled(preset, 6)]
    one_by_one = degrade(images, degradations, range(24))
    # Rounding may tip a JPEG coefficient over; nothing else differs.
    assert float(psnr(one_by_one, degrade_together(images, degradations, range(24))).min()) > 55


class Launches(TorchDispatchMode):
    """Counts operations that read or write the tensors of a device, views of them not.

    Only copies may bring tensors of two devices together. On `meta`, reading a value (as .item() does) is an error.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.count = device, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs or {}, result))
        devices = {x.device.type for x in leaves if isinstance(x, Tensor)}
        assert len(devices) < 2 or function.name() in ("aten::_to_copy", "aten::copy_"), function
        self.count += not function.is_view and self.device in devices
        return result


def launches(count: int, preset: str) -> int:
    images = torch.empty(count, 3, 64, 64, device="meta")
    with Launches("meta") as counted:
        degrade(images, [sample_degradation(seed % 12, PRESETS[preset]) for seed in range(count)])
    return counted.count


@pytest.mark.parametrize("preset", ["level1", "level2", "train"])
def test_operations_on_a_device_do_not_grow_with_the_batch(preset: str) -> None:
    launches(12, preset)  # makes constants that stay on the device
    few, many = launches(12, preset), launches(96, preset)
    assert 50 < few == many < 4 * launches(1, preset)


def test_a_callers_autocast_changes_nothing() -> None:
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    degradations = [sample_degradation(seed, PRESETS["level2"]) for seed in range(4)]
    with Accelerator(cpu=True, mixed_precision="bf16").autocast():
        inside = degrade(images, degradations)
    assert torch.equal(inside, degrade(images, degradations))


def test_large_batches_are_cut() -> None:
    images = torch.empty(33, 3, 512, 512, device="meta")
    degradation = Degradation(DegradationPass(jpeg_quality=50))
    with Launches("meta") as counted:
        degrade(images, [degradation] * 33)
    with Launches("meta") as half:
        degrade(images[:32], [degradation] * 32)
    assert 1.9 * half.count < counted.count <= 2 * half.count


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("preset", PRESETS)
def test_cuda_gives_the_same_picture(preset: str) -> None:
    images = F.interpolate(face(), (256, 256)).expand(24, -1, -1, -1)
    degradations = sampled(preset, 24)
    expected = degrade(images, degradations, range(24))
    gpu = torch.device("cuda")
    degraded = degrade(images.to(gpu), degradations, range(24))
    assert degraded.is_cuda
    assert bool((psnr(expected, degraded.cpu()) >= 40).all())
