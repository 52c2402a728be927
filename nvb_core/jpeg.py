"""JPEG compression artefacts in plain torch, on any device: 4:2:0 chroma, standard tables, real rounding.

Follows libjpeg's defaults (quality scaling, box-filtered chroma, triangle-filtered upsampling) closely enough that a
round trip agrees with Pillow's to better than 44 dB. Entropy coding is lossless and therefore left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ConfigError
from .ragged import RaggedImages, upload

# ITU-T T.81, Annex K.1, tables K.1 and K.2.
_LUMINANCE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMINANCE = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 "
    "99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"
)
# JFIF: full-range BT.601, rows Y, Cb, Cr; and its inverse.
_RGB_TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_YCC_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


@lru_cache(maxsize=100)
def quantization_tables(quality: int) -> Tensor:
    """libjpeg's luminance and chrominance tables for a quality of 1–100; (2, 64) float32 in row-major order."""
    if not 1 <= quality <= 100:
        raise ConfigError(f"JPEG quality is {quality}, must lie in 1–100")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = torch.tensor([[int(value) for value in table.split()] for table in (_LUMINANCE, _CHROMINANCE)])
    return ((base * percent + 50) // 100).clamp(1, 255).float()


@lru_cache(maxsize=8)
def _dct_matrix(device: torch.device) -> Tensor:
    """Orthonormal 8×8 DCT-II of a flattened block: (64, 64), coefficients = pixels @ matrix."""
    k, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    dct = torch.cos((2 * x + 1) * k * math.pi / 16) * 0.5
    dct[0] /= math.sqrt(2)
    return torch.kron(dct, dct).T.contiguous().to(device)


@lru_cache(maxsize=8)
def _color_matrices(device: torch.device) -> Tensor:
    """(2, 3, 3) from RGB to YCbCr and back."""
    return torch.tensor((_RGB_TO_YCC, _YCC_TO_RGB), device=device)


def _quantize(planes: Tensor, tables: Tensor) -> Tensor:
    """Round trip of planes (B, C, H, W) in -128..127, sides multiples of 8, through DCT coefficients.

    They are quantised by each image's table (B, 64).
    """
    B, C, H, W = planes.shape
    dct, tables = _dct_matrix(planes.device), tables[:, None]
    blocks = planes.reshape(B, C, H // 8, 8, W // 8, 8).transpose(3, 4).reshape(B, -1, 64)
    ratio = (blocks @ dct).div_(tables)
    # Halves round away from zero; flat blocks make them common.
    coefficients = ratio.abs().add_(0.50001).floor_().copysign_(ratio).mul_(tables)
    blocks = (coefficients @ dct.T).round_().clamp_(-128, 127)
    return blocks.reshape(B, C, H // 8, W // 8, 8, 8).transpose(3, 4).reshape(B, C, H, W)


def jpeg_roundtrip(image: Tensor, quality: int) -> Tensor:
    """Encode and decode one image (3, H, W) in [0, 1] as JPEG; any size. Values come back as multiples of 1/255.

    Raises ConfigError if the quality is outside 1–100.
    """
    return jpeg_roundtrip_all(RaggedImages.of(image[None]), [quality])[0]


def jpeg_roundtrip_all(images: RaggedImages, qualities: Sequence[int]) -> Tensor:
    """jpeg_roundtrip of each image at its own quality, with as many operations on the device as for one."""
    M, N = images.pixels.shape[-2:]
    device = images.pixels.device
    tables = upload(torch.stack([quantization_tables(quality) for quality in qualities]), device)
    to_ycc, to_rgb = _color_matrices(device)
    rgb = images.pixels.float().clamp(0, 1).mul_(255).round_()
    ycc = (to_ycc @ rgb.flatten(2)).unflatten(2, (M, N))
    ycc[:, 0].sub_(128)
    ycc = RaggedImages(ycc.round_(), images.sizes).extended(0, M + -M % 16, N + -N % 16).clamp_(-128, 127)
    luma = _quantize(ycc[:, :1], tables[:, 0])[..., :M, :N]
    # libjpeg's averages round down and up in alternate columns.
    chroma = F.avg_pool2d(ycc[:, 1:], 2).add_(0.25)
    chroma[..., 1::2].add_(0.25)
    chroma = _quantize(chroma.floor_(), tables[:, 1])
    halves = tuple(((h + 1) // 2, (w + 1) // 2) for h, w in images.sizes)
    chroma = RaggedImages(chroma, halves).extended(0, (M + 1) // 2, (N + 1) // 2)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")[..., :M, :N].round()
    decoded = (to_rgb @ torch.cat([luma + 128, chroma], 1).flatten(2)).unflatten(2, (M, N))
    return decoded.round_().clamp_(0, 255).div_(255).to(images.pixels.dtype)
