"""The elementary image degradations: blur kernels, filtering, resizing and noise on images in [0, 1].

Kernels follow Real-ESRGAN (arXiv 2107.10833) and BasicSR's definitions. Everything is a deterministic function of its
arguments; noise comes from CPU generators whatever the images' device. `..._all` work on many images of different
sizes, with as many operations on the device as for one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ConfigError
from .ragged import RaggedImages, Size, apply_where, upload

KernelKind = Literal["gaussian", "generalized", "plateau", "sinc"]
ResizeFilter = Literal["area", "bilinear", "bicubic"]
NoiseKind = Literal["gaussian", "poisson"]
ResizedAxis = tuple[ResizeFilter, int, int]
"""Filter, old and new length."""

# Photons per full-scale value of Poisson noise. BasicSR counts an image's distinct values instead (256 for nearly every
# photo), which would give two views of one face different noise.
_POISSON_PHOTONS = 256.0
_LUMA = (0.2989, 0.5870, 0.1140)


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_within(name: str, value: object, low: float, high: float) -> None:
    """Raise ConfigError unless the value is a number in low–high."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number and low <= value <= high, f"{name} is {value!r}, must be a number in {low:g}–{high:g}")  # type: ignore[operator]


@dataclass(frozen=True)
class BlurKernel:
    """A normalised, point-symmetric blur kernel of size_px × size_px."""

    kind: KernelKind  # shape of the falloff
    size_px: int  # side of the kernel, odd, 1–63
    sigma_x_px: float = 1.0  # standard deviation along the first axis; unused by sinc
    sigma_y_px: float = 1.0  # along the second; equal to sigma_x_px for an isotropic kernel
    rotation_rad: float = 0.0  # turns the axes
    beta: float = 1.0  # exponent of generalized and plateau
    cutoff_rad: float = math.pi  # sinc only: cutoff in radians per pixel

    def __post_init__(self) -> None:
        require(self.kind in get_args(KernelKind), f"blur kind is {self.kind!r}, must be one of {get_args(KernelKind)}")
        size = self.size_px
        require(isinstance(size, int) and size % 2 == 1 and 1 <= size <= 63, f"blur size is {size}, must be odd, 1–63")
        for name in ("sigma_x_px", "sigma_y_px", "beta", "cutoff_rad"):
            require_within(f"blur {name}", getattr(self, name), 0.01, 100)
        require_within("blur rotation_rad", self.rotation_rad, -10, 10)

    def weights(self) -> Tensor:
        """(size_px, size_px) float64, summing to 1."""
        axis = torch.arange(self.size_px, dtype=torch.float64) - self.size_px // 2
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        weights = self._sinc(x, y) if self.kind == "sinc" else self._bell(x, y)
        return weights / weights.sum()

    def _sinc(self, x: Tensor, y: Tensor) -> Tensor:
        """Circular low-pass: J1(omega r)/r, whose limit at r = 0 is omega/2."""
        r = torch.hypot(x, y)
        at_zero = torch.full_like(r, self.cutoff_rad / 2)
        return torch.where(r == 0, at_zero, torch.special.bessel_j1(self.cutoff_rad * r) / r.clamp_min(1e-9))

    def _bell(self, x: Tensor, y: Tensor) -> Tensor:
        cos, sin = math.cos(self.rotation_rad), math.sin(self.rotation_rad)
        u, v = (cos * x + sin * y) / self.sigma_x_px, (cos * y - sin * x) / self.sigma_y_px
        power = (u**2 + v**2) ** (1.0 if self.kind == "gaussian" else self.beta)
        return 1 / (1 + power) if self.kind == "plateau" else torch.exp(-0.5 * power)


@dataclass(frozen=True)
class Noise:
    """Additive noise of one image."""

    kind: NoiseKind  # gaussian: the same everywhere; poisson: grows with the square root of brightness
    level: float  # gaussian: standard deviation in 1/255; poisson: multiple of the shot noise of 256 photons
    gray: bool  # the same noise in all three channels

    def __post_init__(self) -> None:
        require(self.kind in get_args(NoiseKind), f"noise kind is {self.kind!r}, must be one of {get_args(NoiseKind)}")
        require_within("noise level", self.level, 0, 255)
        require(isinstance(self.gray, bool), f"noise gray is {self.gray!r}, must be true or false")


def blur(image: Tensor, kernel: BlurKernel) -> Tensor:
    """Filter an image (3, H, W) with a kernel, edges replicated."""
    return blur_all(RaggedImages.of(image[None]), [kernel])[0]


def blur_all(images: RaggedImages, kernels: Sequence[BlurKernel]) -> Tensor:
    """Filter each image with its own kernel. By FFT: its cost doesn't depend on the kernels' sizes."""
    M, N = images.pixels.shape[-2:]
    largest = max(kernel.size_px for kernel in kernels)
    pad = largest // 2
    centred = torch.zeros(len(kernels), largest, largest, dtype=images.pixels.dtype)
    for place, kernel in zip(centred, kernels, strict=True):
        edge = (largest - kernel.size_px) // 2
        place[edge : largest - edge, edge : largest - edge] = kernel.weights()
    weights = upload(centred, images.pixels.device)
    padded = images.extended(pad, M + 2 * pad, N + 2 * pad)
    # Multiples of 16 transform several times faster than odd lengths; the rows added are cropped away.
    shape = [side + (-side) % 16 for side in padded.shape[-2:]]
    spectrum = torch.fft.rfft2(padded, s=shape).mul_(torch.fft.rfft2(weights, s=shape)[:, None])
    filtered = torch.fft.irfft2(spectrum, s=shape)
    return filtered[..., 2 * pad : 2 * pad + M, 2 * pad : 2 * pad + N]


def resize(image: Tensor, height: int, width: int, mode: ResizeFilter) -> Tensor:
    """torch's F.interpolate without antialiasing, as published: its aliasing is part of the degradation."""
    return resize_all(RaggedImages.of(image[None]), [(height, width)], [mode]).pixels[0]


def resize_all(images: RaggedImages, sizes: Sequence[Size], modes: Sequence[ResizeFilter]) -> RaggedImages:
    """Resize each image to its own size by its own filter; several times faster than F.interpolate on a CPU."""
    if tuple(sizes) == images.sizes:
        return images
    rows, columns = (
        [(mode, old[axis], new[axis]) for mode, old, new in zip(modes, images.sizes, sizes, strict=True)]
        for axis in (0, 1)
    )
    resized = _resize_rows(_resize_rows(images.pixels, rows).mT.contiguous(), columns).mT.contiguous()
    return RaggedImages(resized, tuple(sizes))


def _resize_rows(pixels: Tensor, axes: Sequence[ResizedAxis]) -> Tensor:
    """(B, C, M, N) to (B, C, largest new, N). A row of the result is a weighted sum of few rows, summed in one pass."""
    B, C, M, N = pixels.shape
    rows, shares = (torch.from_numpy(table) for table in _row_tables(tuple(axes), C, M))
    summed = F.embedding_bag(
        upload(rows, pixels.device),
        pixels.reshape(-1, N),
        per_sample_weights=upload(shares.to(pixels.dtype), pixels.device),
        mode="sum",
    )
    return summed.view(B, C, -1, N)


@lru_cache(maxsize=8)  # a square picture's columns take its rows' tables, and all views of a face the same
def _row_tables(axes: tuple[ResizedAxis, ...], channels: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that each new row sums and their shares, (B·C·largest new, T), where all images' rows lie in one table."""
    taps = [_resize_taps(*axis) for axis in axes]
    shape = (len(axes), 1, max(new for _, _, new in axes), max(index.shape[1] for index, _ in taps))
    rows, shares = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    for i, (index, weight) in enumerate(taps):
        rows[i, 0, : index.shape[0], : index.shape[1]] = index
        shares[i, 0, : index.shape[0], : index.shape[1]] = weight
    rows = rows + length * np.arange(len(axes) * channels).reshape(-1, channels, 1, 1)
    return rows.reshape(-1, shape[-1]), shares.repeat(channels, 1).reshape(-1, shape[-1])


@lru_cache(maxsize=256)
def _resize_taps(mode: ResizeFilter, old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the old axis and weights that each element of the new one sums; both (new, T).

    In float32 as F.interpolate itself, whose coordinates they reproduce.
    """
    i = np.arange(new)[:, None]
    if mode == "area":
        start, end = i * old // new, -((-(i + 1) * old) // new)
        index = start + np.arange(int((end - start).max()))
        return index.clip(max=old - 1), ((index < end) / (end - start)).astype(np.float32)
    source = np.float32(old) / np.float32(new) * (i.astype(np.float32) + np.float32(0.5)) - np.float32(0.5)
    if mode == "bilinear":
        source = source.clip(0)
        below = np.floor(source)
        share = source - below
        return (below.astype(np.int64) + np.arange(2)).clip(max=old - 1), np.concatenate([1 - share, share], 1)
    below = np.floor(source)
    index = (below.astype(np.int64) + np.arange(-1, 3)).clip(0, old - 1)
    return index, _cubic(np.abs(source - below - np.array([-1, 0, 1, 2], np.float32)))


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Weight of a tap at a distance of 0-2 under cubic convolution with a = -0.75, torch's."""
    a, x = np.float32(-0.75), distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far).astype(np.float32)


def add_noise(image: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    """Add noise drawn from a CPU generator to an image (3, H, W) and clamp to [0, 1]."""
    images = add_noise_all(RaggedImages.of(image[None]), [noise], [generator])
    return images.pixels[0]


def add_noise_all(
    images: RaggedImages, noises: Sequence[Noise | None], generators: Sequence[torch.Generator]
) -> RaggedImages:
    """Add to each image its own noise, if any, drawn from its own CPU generator, and clamp to [0, 1].

    Poisson noise uses its normal approximation: ten times faster, and alike wherever the noise can be seen.
    """
    drawn = [None if noise is None else (noise, generator) for noise, generator in zip(noises, generators, strict=True)]
    for kind, add in (("gaussian", _add_gaussian), ("poisson", _add_poisson)):
        images = apply_where(images, [item if item and item[0].kind == kind else None for item in drawn], add)
    return images


def _add_gaussian(images: RaggedImages, drawn: Sequence[tuple[Noise, torch.Generator]]) -> Tensor:
    level = _per_image([noise.level / 255 for noise, _ in drawn], images.pixels)
    return (_noise_field(images, drawn) * level).add(images.pixels).clamp_(0, 1)


def _add_poisson(images: RaggedImages, drawn: Sequence[tuple[Noise, torch.Generator]]) -> Tensor:
    source, gray = images.pixels, [noise.gray for noise, _ in drawn]
    if any(gray):
        luma = torch.einsum("c,bchw->bhw", _luma(source.device).to(source), source)[:, None]
        source = luma if all(gray) else torch.where(_per_image(gray, source) > 0, luma, source)
    deviation = source.clamp_min(0).div_(_POISSON_PHOTONS).sqrt_()
    level = _per_image([noise.level for noise, _ in drawn], images.pixels)
    return (deviation.mul_(_noise_field(images, drawn)) * level).add(images.pixels).clamp_(0, 1)


@lru_cache(maxsize=8)
def _luma(device: torch.device) -> Tensor:
    return torch.tensor(_LUMA, device=device)


def _noise_field(images: RaggedImages, drawn: Sequence[tuple[Noise, torch.Generator]]) -> Tensor:
    """Standard normal numbers (B, C or 1, M, N), drawn per image at its own size: they don't depend on the canvas."""
    B, C, M, N = images.pixels.shape
    channels = [1 if noise.gray else C for noise, _ in drawn]
    field = torch.empty(B, max(channels), M, N, pin_memory=images.pixels.device.type == "cuda")
    for canvas, count, (h, w), (_, generator) in zip(field, channels, images.sizes, drawn, strict=True):
        canvas[:, :h, :w] = torch.randn((count, h, w), generator=generator)
    return upload(field, images.pixels.device).to(images.pixels.dtype)


def _per_image(values: Sequence[float], like: Tensor) -> Tensor:
    return upload(torch.tensor(values, dtype=like.dtype), like.device).view(-1, 1, 1, 1)
