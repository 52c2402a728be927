"""Metrics that need other people's networks: which of them can be measured here, and measuring them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError

from .benchmark import BenchmarkFace
from .distributions import SetFeatures
from .embedding import Embedding, EmbeddingOptions
from .inception import Inception, inception_features, load_inception
from .perceptual import DISTS, LPIPS, load_alexnet, load_dists, load_lpips, load_vgg16, torchmetrics_file
from .scores import IdentityScores
from .weights_files import ALEXNET, INCEPTION, FoundFile, find_weights
from .weights_files import VGG16 as VGG16_FILE

BATCH = 8
"""Views that go through a network at once."""
LIKENESS_NOTE = "LPIPS: version 0.1; it and DISTS: of views at their own size, less is better."
MUSIQ_REMARK = (
    "MUSIQ and other learned scores without a true picture left out: MUSIQ's weights for PyTorch come under "
    "CC BY-NC-SA 4.0, which this project's licence doesn't go with (benchmarks/METRICS.md)"
)
NOTES = {
    "inception": (
        "FID and KID: of all generated against all true views (of restorations where there are no views), in 8 bits, "
        "resized to 299 px bilinearly, Inception of 2015-12-05, 2048 features; less is better. FID is the larger the "
        "fewer the pictures: compare it for equal numbers only, and for fewer than some 10,000 not with published "
        "values. KID: unbiased, over all pairs; its 95 % interval by leaving out one head at a time."
    ),
    "embedding": "ID (plugged in): cosine of the given network's embeddings of the generated and the true picture.",
}


@dataclass(frozen=True)
class MetricOptions(EmbeddingOptions):
    """Files for metrics that need other people's networks. A metric whose file isn't there is left out."""

    vgg16: Path | None = None
    """VGG16 for LPIPS and DISTS: torchvision's vgg16-397923af.pth, or its tensors as .safetensors. This and the next
    two are also found in torch.hub's cache."""
    alexnet: Path | None = None
    """AlexNet for LPIPS: torchvision's alexnet-owt-7be5be79.pth."""
    inception: Path | None = None
    """Inception for FID and KID: torch-fidelity's weights-inception-2015-12-05-6726825d.pth."""
    allow_download: bool = False
    """Download those of the three files that are missing into torch.hub's cache (528, 233 and 91 MB)."""


@dataclass(frozen=True, eq=False)
class ExtraMetrics:
    """Those that can be measured."""

    files: Mapping[str, FoundFile]
    """By option."""
    likeness: Mapping[str, LPIPS | DISTS]
    """By the name of a view's score."""
    inception: Inception | None
    embedding: Embedding | None
    left_out: tuple[str, ...]
    """A line for each that isn't measured: why, and what to do."""
    device: torch.device

    @classmethod
    def find(cls, options: MetricOptions, device: torch.device) -> ExtraMetrics:
        """What the options and the machine allow, loaded. Raises ConfigError for what is asked for and can't be had."""
        files, left_out = {}, []
        for file in (VGG16_FILE, ALEXNET, INCEPTION):
            given: Path | None = getattr(options, file.option)
            asked_for = given is not None or options.allow_download
            problem = "" if file is INCEPTION else _torchmetrics_problem(asked_for)
            found = None if problem else find_weights(file, given, options.allow_download)
            if found is None:
                problem = problem or f"no {file.name} found; give it with --{file.option} FILE, or --allow-download"
                left_out.append(f"{file.serves} left out: {problem}")
            else:
                files[file.option] = found
        embedding = options.open()
        if embedding is None:
            left_out.append("ID of a network of your own left out: give one with --embedding FILE.onnx")
        else:
            files["embedding"] = embedding.file
        inception = load_inception(files["inception"].path).to(device) if "inception" in files else None
        return cls(files, _load_likeness(files, device), inception, embedding, tuple(left_out), device)

    @cached_property
    def described(self) -> dict[str, str]:
        """What the results depend on: the first 12 digits of each file's sha256, and how they are used."""
        described = {option: found.sha256[:12] for option, found in self.files.items()}
        if self.embedding is not None:
            described["embedding"] = self.embedding.described
        if self.likeness:
            described["torchmetrics"] = version("torchmetrics")
        return described

    @property
    def notes(self) -> tuple[str, ...]:
        """How the figures are to be read."""
        notes = [LIKENESS_NOTE] if self.likeness else []
        return (*notes, *(NOTES[option] for option in self.files if option in NOTES))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the figures must not be shown without: those left out, and files that aren't the published ones."""
        others = []
        for file in (VGG16_FILE, ALEXNET, INCEPTION):
            found = self.files.get(file.option)
            if found is not None and not found.sha256.startswith(file.sha256_start):
                others.append(
                    f"{found.path.name} isn't the published {file.name}, or not in its form: {file.serves} may not be "
                    "comparable with published values"
                )
        return (*self.left_out, MUSIQ_REMARK, *others)

    def measure(self, scores: IdentityScores, face: BenchmarkFace, views: Tensor, restored: Tensor) -> IdentityScores:
        """The scores with what is measured of generated views (N, 3, S, S) and a restoration (3, S, S) added."""
        images, targets = torch.cat([views, restored[None]]), torch.cat([face.targets, face.image[None]])
        columns = self._columns(images, targets, Cameras.cat([face.cameras.targets, face.cameras.input]))
        measured = tuple(
            replace(view, **{name: column[i] for name, column in columns.items()})
            for i, view in enumerate(scores.views)
        )
        features = self._features(views, face.targets)
        return replace(scores, views=measured, features=features, **_of_restoration(columns))

    def measure_restoration(self, scores: IdentityScores, restored: Tensor, clean: Tensor) -> IdentityScores:
        """The same of a restoration and the clean picture (3, S, S) alone, seen by no known camera."""
        columns = self._columns(restored[None], clean[None], None)
        return replace(scores, features=self._features(restored[None], clean[None]), **_of_restoration(columns))

    def _columns(self, images: Tensor, targets: Tensor, cameras: Cameras | None) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {
            name: self._in_batches(metric, images, targets) for name, metric in self.likeness.items()
        }
        if self.embedding is not None:
            columns["plugged_identity"] = self.embedding.similarities(images, targets, cameras).tolist()
        return columns

    def _features(self, generated: Tensor, true: Tensor) -> SetFeatures | None:
        if self.inception is None:
            return None
        return SetFeatures(inception_features(self.inception, generated), inception_features(self.inception, true))

    def _in_batches(self, metric: LPIPS | DISTS, images: Tensor, targets: Tensor) -> list[float]:
        pairs = torch.stack([images, targets], 1).float().split(BATCH)  # of (n, 2, 3, S, S)
        values: list[float] = torch.cat([metric(*pair.to(self.device).unbind(1)) for pair in pairs]).tolist()
        return values


def _of_restoration(columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {f"restored_{name}": column[-1] for name, column in columns.items()}


def _load_likeness(files: Mapping[str, FoundFile], device: torch.device) -> dict[str, LPIPS | DISTS]:
    metrics: dict[str, LPIPS | DISTS] = {}
    if "vgg16" in files:
        vgg16 = load_vgg16(files["vgg16"].path)
        metrics |= {"lpips_vgg16": load_lpips(vgg16), "dists": load_dists(vgg16)}
    if "alexnet" in files:
        metrics["lpips_alexnet"] = load_lpips(load_alexnet(files["alexnet"].path))
    return {name: metric.to(device) for name, metric in metrics.items()}


def _torchmetrics_problem(asked_for: bool) -> str:
    """Why its weights can't be had, or nothing. Raises ConfigError if they must be."""
    try:
        torchmetrics_file("dists_models/weights.pt")
    except ConfigError as error:
        if asked_for:
            raise
        return str(error)
    return ""
