"""Degraded and clean pictures of equal names, as CelebA-Test has them: how well a model restores, and no views.

FOLDER/lq/00000.png, FOLDER/hq/00000.png     square, of any size; whole pictures are resampled to the model's size
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nvb_core.align import CropBox, crop_image
from nvb_core.checkpoint import file_sha256
from nvb_core.cli.jobs import SUFFIXES
from nvb_core.errors import ConfigError, ImageError
from nvb_core.images import load_image, to_pil
from nvb_core.model import NVBModel
from nvb_core.pipeline import encode_faces

from ..judges.judges import load_judges
from .benchmark import digest
from .extra import ExtraMetrics
from .measure import restore_alike, timed
from .methods import Method
from .metrics import psnr, ssim
from .niqe import niqe
from .run import BaseEvaluation, Measured
from .scores import IdentityScores
from .sheet import CAPTION_PX, MAX_STRIPS

DEGRADED, CLEAN = "lq", "hq"


@dataclass(frozen=True)
class PairSettings:
    """What the pictures depend on besides the folder's content."""

    data: str
    """Name of the folder."""
    image_size: int
    views: None = None
    """There are none."""


@dataclass(frozen=True, eq=False)
class RestorationPair:
    """One picture of the set, (3, S, S) float32 in [-1, 1]."""

    seed: int
    degraded: Tensor
    clean: Tensor


class PairFolder:
    """A folder with lq/ and hq/; a picture's number stands for a seed. Raises ConfigError where one lacks its twin."""

    def __init__(self, root: Path, image_size: int) -> None:
        degraded, clean = (pictures_by_name(root / part) for part in (DEGRADED, CLEAN))
        for alone in sorted(degraded.keys() ^ clean.keys()):
            where, other = (DEGRADED, CLEAN) if alone in degraded else (CLEAN, DEGRADED)
            raise ConfigError(f"{root / where}: {alone} has no picture of that name in {other}/; add it or remove this")
        if not degraded:
            raise ConfigError(f"{root / DEGRADED}: no pictures")
        self._files = [(degraded[name], clean[name]) for name in degraded]
        self.names = dict(enumerate(degraded))
        self.settings = PairSettings(root.resolve().name, image_size)
        contents = {f"{path.parent.name}/{path.name}": file_sha256(path) for pair in self._files for path in pair}
        self.key = digest({"image_size": image_size, "contents": contents}, [Path(__file__)])

    def load(self, seed: int) -> RestorationPair:
        """Both pictures. Raises ImageError."""
        degraded, clean = (whole_picture(path, self.settings.image_size) for path in self._files[seed])
        return RestorationPair(seed, degraded, clean)

    def restored_file(self, method: Method, seed: int) -> Path:
        """Another system's restoration."""
        return method.folder / f"{self.names[seed]}.png"

    def restored_by(self, method: Method, seed: int) -> Tensor:
        """Another system's restoration (3, S, S): a PNG of the same name. Raises ImageError."""
        path = self.restored_file(method, seed)
        if not path.is_file():
            raise ImageError(f"{path}: missing picture of method {method.name}, its restoration of {DEGRADED}/")
        return whole_picture(path, self.settings.image_size)


@dataclass(frozen=True)
class RestorationEvaluation(BaseEvaluation):
    """One model's restorations; of `settings` only the sampling counts."""

    benchmark: PairFolder

    @cached_property
    def subject(self) -> dict[str, Any]:
        """As of any evaluation; the folder says how its pictures are degraded."""
        return {**super().subject, "level": None}

    def draw(self, model: NVBModel, seeds: Sequence[int], machine: str) -> Iterator[Measured]:
        """Restore and measure some pictures at once; each comes out as it would alone."""
        pairs = [self.benchmark.load(seed) for seed in seeds]
        seconds: dict[str, float] = {}
        with timed(seconds, "restoration"):
            features = encode_faces(model, torch.stack([pair.degraded for pair in pairs]))
            restored = restore_alike(model, features, len(pairs), self.settings.sampling)
        share = {stage: value / len(pairs) for stage, value in seconds.items()}
        for pair, image in zip(pairs, restored, strict=True):
            yield Measured(replace(score_pair(pair, image, machine, self.extra), seconds=share), strip(pair, image))

    def method_pictures(self, method: Method, seed: int) -> list[Path]:
        """Another system's restoration."""
        return [self.benchmark.restored_file(method, seed)]

    def check_method(self, method: Method, seeds: Sequence[int]) -> None:
        """Read every picture of another system once. Raises ImageError."""
        for seed in seeds:
            self.benchmark.restored_by(method, seed)

    def score_method(self, method: Method, seed: int) -> IdentityScores:
        """Scores of another system's restoration."""
        return score_pair(self.benchmark.load(seed), self.benchmark.restored_by(method, seed), method.name, self.extra)

    def side_by_side(self, methods: Sequence[Method], seeds: Sequence[int], name: str) -> Image.Image:
        """The first pictures, one below the other: degraded, restored by the model, clean, restored by the others."""
        rows = []
        for seed in seeds[:MAX_STRIPS]:
            own = load_image(self.path(seed, ".png")).pixels
            rows.append(torch.cat([own, *(self.benchmark.restored_by(method, seed) for method in methods)], dim=-1))
        size = self.benchmark.settings.image_size
        sheet = Image.new("RGB", (size * (3 + len(methods)), CAPTION_PX + size * len(rows)), "white")
        sheet.paste(to_pil(torch.cat(rows, dim=-2)), (0, CAPTION_PX))
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        for column, label in enumerate((DEGRADED, name, CLEAN, *(method.name for method in methods))):
            draw.text((column * size + 4, CAPTION_PX / 2), label, "black", font, anchor="lm")
        return sheet


def pictures_by_name(folder: Path) -> dict[str, Path]:
    """Pictures in a folder by name without suffix, sorted. Raises ConfigError for two of one name or no folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise ConfigError(f"{folder}: {found[path.stem].name} and {path.name} have one name; keep one")
            found[path.stem] = path
    return found


def whole_picture(path: Path, size: int) -> Tensor:
    """A square picture as (3, size, size) in [-1, 1], antialiased. Raises ImageError."""
    pixels = load_image(path).pixels
    height, width = pixels.shape[-2:]
    if height != width:
        raise ImageError(f"{path}: {width}×{height} pixels, must be square; crop it to the face")
    return pixels if width == size else crop_image(pixels, CropBox(width / 2, width / 2, width), size)


def score_pair(
    pair: RestorationPair, restored: Tensor, machine: str, extra: ExtraMetrics | None = None
) -> IdentityScores:
    """A restoration (3, S, S) against the clean picture; nothing of views or cameras."""
    clean = pair.clean[None]
    found = torch.stack([pair.degraded, restored])
    true, *others = load_judges().read(torch.cat([clean, found])).embeddings
    degraded_psnr, restored_psnr = psnr(found, clean).tolist()
    degraded_ssim, restored_ssim = ssim(found, clean.expand_as(found)).tolist()
    degraded_identity, restored_identity = (float(true @ other) for other in others)
    scores = IdentityScores(
        seed=pair.seed,
        camera=None,
        pair_psnr=None,
        true_pair_psnr=None,
        niqe=None,
        true_niqe=None,
        views=(),
        seconds={},
        machine=machine,
        degraded_psnr=degraded_psnr,
        restored_psnr=restored_psnr,
        degraded_ssim=degraded_ssim,
        restored_ssim=restored_ssim,
        degraded_identity=degraded_identity,
        restored_identity=restored_identity,
        restored_niqe=niqe(restored[None]),
        clean_niqe=niqe(clean),
    )
    return scores if extra is None else extra.measure_restoration(scores, restored, pair.clean)


def strip(pair: RestorationPair, restored: Tensor) -> Image.Image:
    """Degraded, restored and clean picture side by side."""
    return to_pil(torch.cat([pair.degraded, restored, pair.clean], dim=-1))
