"""The elementary image degradations: blur kernels, filtering, resizing and noise on one image (3, H, W) in [0, 1].

Kernels follow Real-ESRGAN (arXiv 2107.10833) and BasicSR's definitions. Everything is a deterministic function of its
arguments; noise comes from a CPU generator whatever the image's device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ConfigError

KernelKind = Literal["gaussian", "generalized", "plateau", "sinc"]
ResizeFilter = Literal["area", "bilinear", "bicubic"]
NoiseKind = Literal["gaussian", "poisson"]

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
    """Filter with a kernel, edges replicated. By FFT: its cost doesn't depend on the kernel's size."""
    H, W = image.shape[-2:]
    pad = kernel.size_px // 2
    padded = F.pad(image[None], (pad,) * 4, mode="replicate")[0]
    # Multiples of 16 transform several times faster than odd lengths; the rows added are cropped away.
    shape = [side + 2 * pad + (-(side + 2 * pad)) % 16 for side in (H, W)]
    spectrum = torch.fft.rfft2(kernel.weights().to(image), s=shape)
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded, s=shape) * spectrum, s=shape)
    return filtered[:, 2 * pad : 2 * pad + H, 2 * pad : 2 * pad + W]


def resize(image: Tensor, height: int, width: int, mode: ResizeFilter) -> Tensor:
    """torch's F.interpolate without antialiasing, as the published pipeline: its aliasing is part of the degradation.

    Computed as two matrix products, several times faster on a CPU.
    """
    H, W = image.shape[-2:]
    if (height, width) == (H, W):
        return image
    rows, columns = _resize_matrix(mode, H, height), _resize_matrix(mode, W, width)
    return rows.to(image) @ image @ columns.to(image).T


@lru_cache(maxsize=32)
def _resize_matrix(mode: ResizeFilter, old: int, new: int) -> Tensor:
    """(new, old) matrix that resizes one axis."""
    align = None if mode == "area" else False
    return F.interpolate(torch.eye(old)[None, None], size=(new, old), mode=mode, align_corners=align)[0, 0]


def add_noise(image: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    """Add noise drawn from a CPU generator and clamp to [0, 1].

    Poisson noise uses its normal approximation: ten times faster, and alike wherever the noise can be seen.
    """
    C, H, W = image.shape
    field = torch.randn((1 if noise.gray else C, H, W), generator=generator).to(image)
    if noise.kind == "gaussian":
        return (image + field * (noise.level / 255)).clamp(0, 1)
    source = torch.einsum("c,chw->hw", torch.tensor(_LUMA).to(image), image)[None] if noise.gray else image
    return (image + field * source.clamp_min(0).div(_POISSON_PHOTONS).sqrt() * noise.level).clamp(0, 1)
