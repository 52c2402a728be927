"""A folder of posed pictures as a benchmark: of each subject the most frontal one is the input, all others are targets.

There is no depth, so that neighbours are compared by optical flow, and no true picture of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from nvb_core.align import crop_image
from nvb_core.cameras import Cameras
from nvb_core.checkpoint import file_sha256
from nvb_core.errors import ConfigError

from .. import data
from ..data import INDEX_NAME, FaceFolder, FaceIndex, Split, read_index, to_float
from .benchmark import Benchmark, BenchmarkFace, FaceCameras, digest, sample_cameras
from .metrics import PosedView
from .photo_scores import PAIR_DEG


@dataclass(frozen=True)
class FolderSettings:
    """What the pictures depend on besides the folder's content."""

    data: str
    """Name of the folder."""
    split: Split
    views: int | None
    """Target views of each subject at most, evenly spread by yaw; None: all."""
    image_size: int
    canonical_px: float
    """Side of the folder's canonical crops, before they are resampled to image_size."""


@dataclass(frozen=True)
class Subject:
    """Which pictures show it, by index in the folder."""

    name: str
    input: int
    targets: tuple[int, ...]


class FolderBenchmark:
    """Subjects of a face folder with at least two pictures of known camera; their number stands for a seed.

    Raises ConfigError naming the file that is bad.
    """

    def __init__(self, root: Path, split: Split, views: int | None, image_size: int) -> None:
        index = read_index(root).only(split)
        folder = FaceFolder.load(root, 1, split=split, in_memory="no")  # crops are resampled here: larger ones, too
        [self._source] = folder.sources
        self._cameras = self._source.canonical_cameras()
        self.subjects = choose_subjects(index, folder.views, self._cameras, views)
        if not self.subjects:
            raise ConfigError(
                f"{root}: no subject of split {split} has two pictures with cameras (mirrored ones and copies don't "
                "count); use another --split or folder"
            )
        self.settings = FolderSettings(root.resolve().name, split, views, image_size, self._source.canonical_px)
        shown = sorted({i for subject in self.subjects for i in (subject.input, *subject.targets)})
        contents = {index.paths[i]: file_sha256(self._source.files[i]) for i in shown}
        described = {key: value for key, value in asdict(self.settings).items() if key != "data"}
        sources = [root / INDEX_NAME, Path(__file__), *Path(data.__file__).parent.glob("*.py")]
        self.key = digest({**described, "contents": contents}, sources)

    @property
    def names(self) -> dict[int, str]:
        """Of the subjects."""
        return {seed: subject.name for seed, subject in enumerate(self.subjects)}

    def cameras(self, seed: int) -> FaceCameras:
        """Of a subject's pictures, and of the neighbours to draw."""
        subject, pair = self.subjects[seed], Cameras.from_angles(PAIR_DEG, 0.0)
        return FaceCameras(self._cameras[subject.input], self._cameras[list(subject.targets)], pair)

    def load(self, seed: int) -> BenchmarkFace:
        """A subject's pictures. Raises ConfigError for a file that can't be decoded."""
        subject = self.subjects[seed]
        image, *targets = self._crops(torch.tensor([subject.input, *subject.targets]))
        cameras = self.cameras(seed)
        first, second = (unknown_view(camera, self.settings.image_size) for camera in cameras.pair)
        return BenchmarkFace(seed, cameras, image, torch.stack(targets), (first, second))

    def _crops(self, indices: Tensor) -> list[Tensor]:
        """Canonical crops (3, S, S) float32 in [-1, 1]; the very pixels where no resampling is needed."""
        source, size = self._source, self.settings.image_size
        images = source.images(indices)
        if source.canonical_px == size and (source.side - size) % 2 == 0:
            return list(to_float(source.canonical_crops(images, size)))
        return [crop_image(to_float(image), source.canonical_box, size) for image in images]


FaceBenchmark: TypeAlias = Benchmark | FolderBenchmark


def target_cameras(benchmark: FaceBenchmark, seed: int) -> Cameras:
    """Of a face's views, without reading its pictures."""
    if isinstance(benchmark, FolderBenchmark):
        return benchmark.cameras(seed).targets
    return sample_cameras(seed, benchmark.settings.views, benchmark.settings.cameras).targets


def choose_subjects(
    index: FaceIndex, views: tuple[np.ndarray, ...], cameras: Cameras, at_most: int | None
) -> list[Subject]:
    """The subjects with two pictures or more among `views`, each one's indices of posed pictures."""
    subjects = []
    for indices in views:
        posed = indices.tolist()
        if len(posed) > 1:
            first, others = choose_views(cameras[posed], at_most)
            subjects.append(Subject(index.subjects[posed[0]], posed[first], tuple(posed[i] for i in others)))
    return subjects


def choose_views(cameras: Cameras, at_most: int | None = None) -> tuple[int, list[int]]:
    """The most frontal of N >= 2 cameras, and the others: all, or `at_most` from the middles of equal parts by yaw."""
    angles = cameras.angles()
    first = int((angles.yaw_deg.deg2rad().cos() * angles.pitch_deg.deg2rad().cos()).argmax())
    others = [i for i in range(len(cameras)) if i != first]
    if at_most is None or len(others) <= at_most:
        return first, others
    by_yaw = sorted(others, key=lambda i: float(angles.yaw_deg[i]))
    middles = (np.arange(at_most) + 0.5) * len(others) / at_most
    return first, sorted(by_yaw[int(place)] for place in middles)


def unknown_view(camera: Cameras, size: int) -> PosedView:
    """A view of which neither picture nor depth is known: no pixel counts."""
    nowhere = torch.zeros(size, size, dtype=torch.bool)
    return PosedView(torch.zeros(3, size, size), torch.full((size, size), torch.inf), nowhere, camera)
