"""NIQE (Mittal et al. 2013): how unlike clean pictures of heads some pictures are, without a true one beside them.

Statistics of locally normalised luminance in patches, compared with those of clean renders. The published model was
fitted to photos of landscapes with patches of 96 px; this one is fitted to the synthetic heads, whose pictures are
small, with patches of 32 px. Its values can't be compared with published ones.

python -m training.evaluation.niqe     fits the model anew and writes it beside this file
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor

from nvb_core.staging import write_atomically

PATCH_PX = 32
SHARP_SHARE = 0.75
"""Patches that a model is fitted to have this share of the local contrast of their picture's sharpest patch."""
FITTED_SIZE_PX = 128
FITTED_MODEL = Path(__file__).with_name("niqe_128.safetensors")
_LUMA = (0.2989, 0.587, 0.114)
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True, eq=False)
class NaturalModel:
    """Distribution of 36 features of patches."""

    mean: Tensor  # (36,) float64
    covariance: Tensor  # (36, 36)

    @classmethod
    def of(cls, features: Tensor) -> NaturalModel:
        """From features (P, 36) of at least two patches."""
        return cls(features.mean(0), features.T.cov())

    @classmethod
    def load(cls, path: Path) -> NaturalModel:
        """Inverse of `save`."""
        tensors = load_file(path)
        return cls(tensors["mean"], tensors["covariance"])

    def save(self, path: Path) -> None:
        """Write a safetensors file. Raises OutputError."""
        tensors = {"mean": self.mean, "covariance": self.covariance}
        write_atomically(path, lambda partial: save_file(tensors, partial))

    def distance(self, other: NaturalModel) -> float:
        """NIQE's distance, >= 0."""
        difference = self.mean - other.mean
        inverse = torch.linalg.pinv((self.covariance + other.covariance) / 2, hermitian=True)
        return float((difference @ inverse @ difference).clamp_min(0).sqrt())


def niqe(images: Tensor) -> float | None:
    """NIQE of pictures (M, 3, S, S) in [-1, 1] together; less is better.

    None unless S is FITTED_SIZE_PX, and where fewer than two patches have any texture.
    """
    if images.shape[-1] != FITTED_SIZE_PX:
        return None
    features = patch_features(images)
    return None if len(features) < 2 else _fitted_model().distance(NaturalModel.of(features))


@lru_cache(maxsize=1)
def _fitted_model() -> NaturalModel:
    return NaturalModel.load(FITTED_MODEL)


def patch_features(images: Tensor, sharp_only: bool = False) -> Tensor:
    """Features (P, 36) float64 of those patches of pictures (M, 3, H, W) in [-1, 1] that aren't flat."""
    gray = (images.double() + 1).mul(127.5).mul(torch.tensor(_LUMA).double().view(3, 1, 1)).sum(1, keepdim=True)
    half = F.interpolate(gray, scale_factor=0.5, mode="bicubic", antialias=True)
    columns = []
    for scale, size in ((gray, PATCH_PX), (half, PATCH_PX // 2)):
        normalised, _ = normalise(scale)
        columns.append(_scale_features(normalised, size))
    features = torch.cat(columns, 1)
    keep = features.isfinite().all(1)
    if sharp_only:
        contrast = F.avg_pool2d(normalise(gray)[1], PATCH_PX).flatten(1)  # (M, patches)
        keep &= (contrast > SHARP_SHARE * contrast.amax(1, keepdim=True)).flatten()
    return features[keep]


def normalise(gray: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance (M, 1, H, W) of 0-255 less its local mean, over its local deviation; and that deviation."""
    axis = torch.arange(7, dtype=gray.dtype) - 3
    bell = torch.exp(-0.5 * (axis / (7 / 6)) ** 2)
    bell = (bell / bell.sum()).view(1, 1, 1, 7)

    def smooth(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(F.pad(values, (3,) * 4, mode="replicate"), bell), bell.mT)

    mean = smooth(gray)
    deviation = (smooth(gray * gray) - mean * mean).abs().sqrt()
    return (gray - mean) / (deviation + 1), deviation


def _scale_features(normalised: Tensor, patch: int) -> Tensor:
    """18 features of each patch, (P, 18), picture by picture."""
    shape, left, right = fit_asymmetric(_patches(normalised, patch))
    columns = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, left, right = fit_asymmetric(_patches(normalised * normalised.roll(shift, (-2, -1)), patch))
        mean = (right - left) * torch.exp(torch.lgamma(2 / shape) - torch.lgamma(1 / shape))
        columns += [shape, mean, left, right]
    return torch.stack(columns, 1)


def _patches(maps: Tensor, side: int) -> Tensor:
    """(M, 1, H, W) in squares, (P, side²); what is left over at the right and the bottom is dropped."""
    return F.unfold(maps, side, stride=side).mT.flatten(0, 1)


def fit_asymmetric(samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Asymmetric generalised Gaussians of the rows of samples (P, n): shape, left and right scale, (P,) each.

    By matching moments, the shape to 0.001 within 0.2-10; a shape of 2 is a normal distribution. Not finite for rows
    that have no values on one side of 0.
    """
    squares = samples * samples
    left, right = ((torch.where(side, squares, 0).sum(1) / side.sum(1)).sqrt() for side in (samples < 0, samples > 0))
    ratio = left / right
    moment = samples.abs().mean(1) ** 2 / squares.mean(1) * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes = torch.arange(200, 10001, dtype=samples.dtype) / 1000
    moments = torch.exp(2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes))
    upper = torch.searchsorted(moments, moment.contiguous()).clamp(1, len(moments) - 1)
    nearer = torch.where(moment - moments[upper - 1] < moments[upper] - moment, upper - 1, upper)
    shape = torch.where(moment.isfinite(), shapes[nearer], torch.nan)
    scale = torch.exp((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2)
    return shape, left * scale, right * scale


@dataclass(frozen=True)
class Options:
    """Fit the model to clean renders of heads with training seeds."""

    identities: int = 64
    """Heads, seeds from 0 on."""
    heads: Path = Path("out/niqe")
    """Folder to render them in."""
    workers: int = 2
    """Processes that render."""
    out: Path = FITTED_MODEL
    """File of the model."""


def main() -> None:
    """Run the fit."""
    from .benchmark import Benchmark, BenchmarkSettings

    options = tyro.cli(Options)
    benchmark = Benchmark(options.heads, BenchmarkSettings(8, FITTED_SIZE_PX))
    for _ in benchmark.render(range(options.identities), options.workers):
        pass
    pictures = torch.cat([benchmark.load(seed).targets for seed in range(options.identities)])
    features = patch_features(pictures, sharp_only=True)
    NaturalModel.of(features).save(options.out)
    print(f"fitted to {len(features)} patches of {len(pictures)} pictures")


if __name__ == "__main__":
    main()
