"""Photo degradation: Real-ESRGAN's second-order pipeline (arXiv 2107.10833) as a sampled value object.

    blur -> resize -> noise -> JPEG, twice; low-quality size + sinc filter and JPEG in either order; back to full size

`sample_degradation` draws the parameters once per face, `degrade` applies them to any number of its views.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor, autocast
from torch.amp import is_autocast_available

from .degradation_ops import (
    BlurKernel,
    KernelKind,
    Noise,
    NoiseKind,
    ResizeFilter,
    add_noise_all,
    blur_all,
    require,
    require_within,
    resize_all,
)
from .errors import ConfigError
from .jpeg import jpeg_roundtrip_all
from .ragged import RaggedImages, Size, apply_where, upload

_PIXELS_AT_ONCE = 2**23  # of one channel, 32 images of 512²: about 1 GiB of intermediate results

Range = tuple[float, float]


def _check_filter(name: str) -> None:
    require(name in get_args(ResizeFilter), f"resize filter is {name!r}, must be one of {get_args(ResizeFilter)}")


@dataclass(frozen=True)
class DegradationPass:
    """One order of the pipeline; None and 1.0 leave a stage out."""

    blur: BlurKernel | None = None
    scale: float = 1.0  # side of the picture after this order's resize; the second's is relative to the final size
    resize_filter: ResizeFilter = "bicubic"
    noise: Noise | None = None
    jpeg_quality: int | None = None  # 1–100

    def __post_init__(self) -> None:
        require_within("resize scale", self.scale, 0.01, 4)
        _check_filter(self.resize_filter)
        quality = self.jpeg_quality
        require(
            quality is None or (isinstance(quality, int) and 1 <= quality <= 100),
            f"JPEG quality is {quality}, must be an integer in 1–100",
        )

    @property
    def is_identity(self) -> bool:
        """Whether no stage does anything."""
        return self.blur is None and self.scale == 1 and self.noise is None and self.jpeg_quality is None


@dataclass(frozen=True)
class Degradation:
    """All parameters of one face's degradation. The default changes nothing."""

    first: DegradationPass = DegradationPass()
    second: DegradationPass = DegradationPass()
    final_scale: float = 1.0  # low-quality size / full size, 0.01–1
    final_filter: ResizeFilter = "bicubic"  # resize to the low-quality size
    final_sinc: BlurKernel | None = None
    jpeg_before_sinc: bool = False  # order of the second JPEG and the resize + sinc filter
    noise_seed: int = 0  # with a view's seed, determines its noise

    def __post_init__(self) -> None:
        require_within("final_scale", self.final_scale, 0.01, 1)
        _check_filter(self.final_filter)
        require(
            isinstance(self.jpeg_before_sinc, bool),
            f"jpeg_before_sinc is {self.jpeg_before_sinc!r}, must be true or false",
        )
        seed = self.noise_seed
        require(isinstance(seed, int) and 0 <= seed < 2**63, f"noise_seed is {seed}, must be an integer in 0–2^63")

    @property
    def is_identity(self) -> bool:
        """Whether no stage does anything."""
        passes = self.first.is_identity and self.second.is_identity
        return passes and self.final_scale == 1 and self.final_sinc is None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary that from_dict restores exactly."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Degradation:
        """Inverse of to_dict. Raises ConfigError on an unknown name, a wrong type or a value out of range."""
        return cast(Degradation, _build(cls, values))


_NESTED: dict[str, type] = {
    "first": DegradationPass,
    "second": DegradationPass,
    "final_sinc": BlurKernel,
    "blur": BlurKernel,
    "noise": Noise,
}


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    require(isinstance(values, Mapping), f"degradation: {cls.__name__} is {values!r}, must be an object")
    built = {k: _build(_NESTED[k], v) if k in _NESTED and v is not None else v for k, v in values.items()}
    try:
        return cls(**built)
    except TypeError as error:
        raise ConfigError(f"degradation: bad {cls.__name__}: {error}") from error


def _check_ranges(ranges: PassRanges | DegradationRanges) -> None:
    for item in dataclasses.fields(ranges):
        value = getattr(ranges, item.name)
        if item.name.endswith("_probability"):
            require_within(item.name, value, 0, 1)
        elif isinstance(value, tuple) and len(value) == 2:
            require(value[0] <= value[1], f"{item.name} is {value}, must be (low, high)")


@dataclass(frozen=True)
class PassRanges:
    """What one order is drawn from. Defaults: the first order of Real-ESRGAN x4plus, as published."""

    blur_probability: float = 1.0
    kernel_sizes_px: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    sinc_probability: float = 0.1  # the rest is shared by the shapes below
    sinc_cutoff_rad: Range = (math.pi / 3, math.pi)  # kernels below 13 px
    large_sinc_cutoff_rad: Range = (math.pi / 5, math.pi)  # kernels from 13 px
    # Of gaussian, generalized and plateau kernels, each isotropic and anisotropic.
    isotropic_probabilities: tuple[float, float, float] = (0.45, 0.12, 0.12)
    anisotropic_probabilities: tuple[float, float, float] = (0.25, 0.03, 0.03)
    sigma_px: Range = (0.2, 3.0)
    generalized_beta: Range = (0.5, 4.0)  # half of the draws below 1, half above
    plateau_beta: Range = (1.0, 2.0)  # as above
    resize_probabilities: tuple[float, float, float] = (0.2, 0.7, 0.1)  # up, down, keep
    scale: Range = (0.15, 1.5)  # down draws from its part below 1, up from its part above
    noise_probability: float = 1.0
    gaussian_probability: float = 0.5  # else Poisson
    gaussian_level: Range = (1.0, 30.0)  # standard deviation in 1/255
    poisson_level: Range = (0.05, 3.0)  # multiple of shot noise
    gray_probability: float = 0.4
    jpeg_probability: float = 1.0
    jpeg_quality: tuple[int, int] = (30, 95)

    def __post_init__(self) -> None:
        _check_ranges(self)


@dataclass(frozen=True)
class DegradationRanges:
    """What a degradation is drawn from. Defaults: Real-ESRGAN x4plus, as published."""

    first: PassRanges = PassRanges()
    second: PassRanges = PassRanges(
        blur_probability=0.8,
        sigma_px=(0.2, 1.5),
        resize_probabilities=(0.3, 0.4, 0.3),
        scale=(0.3, 1.2),
        gaussian_level=(1.0, 25.0),
        poisson_level=(0.05, 2.5),
    )
    final_scale: Range = (0.25, 0.25)
    final_sinc_probability: float = 0.8
    final_sinc_cutoff_rad: Range = (math.pi / 3, math.pi)
    swap_probability: float = 0.5  # JPEG before the final resize and sinc filter

    def __post_init__(self) -> None:
        _check_ranges(self)


@dataclass(frozen=True)
class DegradationMix:
    """Draws from one of several ranges, chosen by weight."""

    parts: tuple[tuple[float, DegradationRanges], ...]

    def __post_init__(self) -> None:
        require(
            bool(self.parts) and all(w > 0 for w, _ in self.parts), "a degradation mix needs parts of positive weight"
        )


_NO_PASS = PassRanges(blur_probability=0, resize_probabilities=(0, 0, 1), noise_probability=0, jpeg_probability=0)
_WEAK = replace(  # chosen
    PassRanges(),
    sigma_px=(0.2, 1.2),
    resize_probabilities=(0.2, 0.4, 0.4),
    scale=(0.5, 1.2),
    gaussian_level=(1.0, 15.0),
    poisson_level=(0.05, 1.5),
    jpeg_quality=(50, 95),
)
_LEVEL0 = DegradationRanges(_NO_PASS, _NO_PASS, (1.0, 1.0), final_sinc_probability=0)
# Mean PSNR at 128²: level 1 25 dB on rendered heads, 23 dB on a photo; level 2 22.5 dB and 19.5 dB.
_LEVEL1 = DegradationRanges(  # chosen
    _WEAK,
    replace(_WEAK, blur_probability=0.5, sigma_px=(0.2, 0.8)),
    final_scale=(0.25, 0.4),
    final_sinc_probability=0.4,
)
_LEVEL2 = DegradationRanges()
_NEARLY_CLEAN = DegradationRanges(  # chosen
    replace(
        _WEAK,
        blur_probability=0.5,
        sigma_px=(0.2, 0.8),
        resize_probabilities=(0, 0, 1),
        gaussian_level=(0.0, 4.0),
        poisson_level=(0.0, 0.3),
        jpeg_quality=(80, 100),
    ),
    _NO_PASS,
    final_scale=(0.5, 1.0),
    final_sinc_probability=0,
)

PRESETS: dict[str, DegradationRanges | DegradationMix] = {
    "level0": _LEVEL0,  # changes nothing
    "level1": _LEVEL1,  # weak, for evaluation
    "level2": _LEVEL2,  # strong, for evaluation: the published x4plus
    "train": DegradationMix(((0.15, _NEARLY_CLEAN), (0.55, _LEVEL1), (0.3, _LEVEL2))),  # chosen
}


def sample_degradation(
    generator: np.random.Generator | int, ranges: DegradationRanges | DegradationMix = _LEVEL2
) -> Degradation:
    """Draw one face's degradation; the same generator state (or seed) and ranges give the same one."""
    rng = np.random.default_rng(generator)
    if isinstance(ranges, DegradationMix):
        weights = np.array([weight for weight, _ in ranges.parts])
        ranges = ranges.parts[rng.choice(len(weights), p=weights / weights.sum())][1]
    first, second = _sample_pass(rng, ranges.first), _sample_pass(rng, ranges.second)
    sinc = None
    if rng.random() < ranges.final_sinc_probability:
        size = int(rng.choice(ranges.first.kernel_sizes_px))
        sinc = BlurKernel("sinc", size, cutoff_rad=rng.uniform(*ranges.final_sinc_cutoff_rad))
    return Degradation(
        first,
        second,
        final_scale=rng.uniform(*ranges.final_scale),
        final_filter=_sample_filter(rng),
        final_sinc=sinc,
        jpeg_before_sinc=bool(rng.random() < ranges.swap_probability),
        noise_seed=int(rng.integers(2**63)),
    )


def _sample_pass(rng: np.random.Generator, ranges: PassRanges) -> DegradationPass:
    kernel = _sample_kernel(rng, ranges) if rng.random() < ranges.blur_probability else None
    direction = rng.choice(3, p=ranges.resize_probabilities)
    low, high = ranges.scale
    scale = (rng.uniform(1, high), rng.uniform(low, 1), 1.0)[direction]
    resize_filter = _sample_filter(rng)
    noise = None
    if rng.random() < ranges.noise_probability:
        kind: NoiseKind = "gaussian" if rng.random() < ranges.gaussian_probability else "poisson"
        level = rng.uniform(*(ranges.gaussian_level if kind == "gaussian" else ranges.poisson_level))
        noise = Noise(kind, level, gray=bool(rng.random() < ranges.gray_probability))
    quality = None
    if rng.random() < ranges.jpeg_probability:
        quality = int(rng.integers(ranges.jpeg_quality[0], ranges.jpeg_quality[1] + 1))
    return DegradationPass(kernel, scale, resize_filter, noise, quality)


def _sample_kernel(rng: np.random.Generator, ranges: PassRanges) -> BlurKernel:
    size = int(rng.choice(ranges.kernel_sizes_px))
    if rng.random() < ranges.sinc_probability:
        return BlurKernel(
            "sinc",
            size,
            cutoff_rad=rng.uniform(*(ranges.sinc_cutoff_rad if size < 13 else ranges.large_sinc_cutoff_rad)),
        )
    weights = np.array(ranges.isotropic_probabilities + ranges.anisotropic_probabilities)
    shape = int(rng.choice(6, p=weights / weights.sum()))
    kinds: tuple[KernelKind, ...] = ("gaussian", "generalized", "plateau")
    kind = kinds[shape % 3]
    sigma_x = sigma_y = rng.uniform(*ranges.sigma_px)
    rotation, beta = 0.0, 1.0
    if shape >= 3:
        sigma_y, rotation = rng.uniform(*ranges.sigma_px), rng.uniform(-math.pi, math.pi)
    if kind != "gaussian":
        low, high = ranges.generalized_beta if kind == "generalized" else ranges.plateau_beta
        beta = rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
    return BlurKernel(kind, size, sigma_x, sigma_y, rotation, beta)


def _sample_filter(rng: np.random.Generator) -> ResizeFilter:
    filters: tuple[ResizeFilter, ...] = get_args(ResizeFilter)
    return filters[rng.integers(len(filters))]


def degrade(images: Tensor, degradations: Sequence[Degradation], view_seeds: Sequence[int] | None = None) -> Tensor:
    """Degrade images (B, 3, H, W) in [-1, 1], each by its own parameters; same shape, range and device.

    view_seeds (B non-negative integers, default all 0) vary the noise between views that share a Degradation.
    Each result depends on its own image, degradation and seed only, never on the rest of the batch: on a CPU exactly,
    elsewhere, where many are computed at once, to rounding.
    """
    seeds = [0] * len(images) if view_seeds is None else view_seeds
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")
    if not len(images) == len(degradations) == len(seeds):
        raise ValueError(f"{len(images)} images, {len(degradations)} degradations and {len(seeds)} view seeds")
    at_once = 1 if images.device.type == "cpu" else max(1, _PIXELS_AT_ONCE // math.prod(images.shape[-2:]))
    changed = [i for i, degradation in enumerate(degradations) if not degradation.is_identity]
    result = images.clone()
    kind = images.device.type
    # A caller's would round colours and DCT.
    with autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext():
        for start in range(0, len(changed), at_once):
            part = changed[start : start + at_once]
            index = slice(part[0], part[0] + 1) if len(part) == 1 else upload(torch.tensor(part), images.device)
            result[index] = degrade_together(images[index], [degradations[i] for i in part], [seeds[i] for i in part])
    return result


def degrade_together(images: Tensor, degradations: Sequence[Degradation], view_seeds: Sequence[int]) -> Tensor:
    """As `degrade`, but all images (at least one) in the same operations, on any device.

    Faster on a GPU, where the number of operations counts; on a CPU slower, as small pictures take a large one's place.
    """
    H, W = images.shape[-2:]
    generators = [_noise_generator(*item) for item in zip(degradations, view_seeds, strict=True)]
    first, second = [d.first for d in degradations], [d.second for d in degradations]
    low = [_scaled((H, W), d.final_scale) for d in degradations]
    x = RaggedImages.of(images.float().clamp(-1, 1).add_(1).div_(2))
    x = _apply_pass(x, first, [(H, W)] * len(low), generators)
    x = apply_where(x, [order.jpeg_quality for order in first], jpeg_roundtrip_all)
    x = _apply_pass(x, second, low, generators)
    x = apply_where(
        x, [d.second.jpeg_quality if d.jpeg_before_sinc else None for d in degradations], jpeg_roundtrip_all
    )
    x = resize_all(x, low, [d.final_filter for d in degradations])
    x = apply_where(x, [d.final_sinc for d in degradations], blur_all)
    x = apply_where(
        x, [None if d.jpeg_before_sinc else d.second.jpeg_quality for d in degradations], jpeg_roundtrip_all
    )
    x = RaggedImages(x.pixels.clamp(0, 1), x.sizes)
    pixels = resize_all(x, [(H, W)] * len(low), ["bicubic"] * len(low)).pixels.clamp(0, 1)
    return pixels.mul_(2).sub_(1).to(images.dtype)


def _noise_generator(degradation: Degradation, view_seed: int) -> torch.Generator:
    seed = np.random.SeedSequence([degradation.noise_seed, view_seed]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed) >> 1)


def _apply_pass(
    x: RaggedImages, orders: Sequence[DegradationPass], bases: Sequence[Size], generators: Sequence[torch.Generator]
) -> RaggedImages:
    x = apply_where(x, [order.blur for order in orders], blur_all)
    sizes = [_scaled(base, order.scale) for base, order in zip(bases, orders, strict=True)]
    x = resize_all(x, sizes, [order.resize_filter for order in orders])
    return add_noise_all(x, [order.noise for order in orders], generators)


def _scaled(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
