"""An identity network of the user's, in ONNX: how alike two pictures of a person are to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nvb_core.align import CropBox, crop_image
from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError

from .weights_files import FoundFile

Crop = Literal["arcface", "whole"]

FACE_POINTS = (
    (-0.0738, 0.0109, 0.1371),
    (0.0738, 0.0109, 0.1371),
    (0.0, -0.0878, 0.2067),
    (-0.0573, -0.1598, 0.1508),
    (0.0573, -0.1598, 0.1508),
)
"""World points of eyes, nose tip and corners of the mouth, image-left first: the mean of 256 synthetic heads with a
neutral face, made symmetric. The aligned crop puts everyone's close to them."""
ARCFACE_POINTS = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""Where ArcFace's crop of 112 px has them."""
ARCFACE_SIZE_PX = 112
BATCH = 64
"""Pictures that go through a network at once, if it takes several."""
ERRORS_ONLY = 3
"""Of onnxruntime's severities: older networks' weights are also inputs, and it would warn of each."""
FOR_ONE = "export a network that takes one picture at a time with a fixed batch of 1"


@dataclass(frozen=True)
class EmbeddingOptions:
    """A network for identity, and what it wants to see."""

    embedding: Path | None = None
    """A network for identity: ONNX, a float32 input (any or 1, 3, S, S), an embedding a picture."""
    embedding_crop: Crop = "arcface"
    """What it gets to see: ArcFace's crop, found by the view's camera, or the whole view."""
    embedding_colours: Literal["rgb", "bgr"] = "rgb"
    """Order of its channels."""
    embedding_mean: float = 127.5
    """Taken off values of 0-255."""
    embedding_std: float = 127.5
    """What the values are divided by then."""

    def open(self) -> Embedding | None:
        """The network, if there is one. Raises ConfigError."""
        if not self.embedding_std > 0:
            raise ConfigError(f"--embedding-std is {self.embedding_std}, must be above 0")
        if self.embedding is None:
            return None
        return Embedding(self, FoundFile.check(self.embedding), open_network(self.embedding))


@dataclass(frozen=True)
class Embedding:
    """A network, opened."""

    options: EmbeddingOptions
    file: FoundFile
    session: Any
    """What `open_network` gives."""

    @property
    def described(self) -> str:
        """What its results depend on."""
        wants, sha256 = self.options, self.file.sha256[:12]
        scale = f"(x - {wants.embedding_mean:g}) / {wants.embedding_std:g}"
        return f"{sha256} ({wants.embedding_crop}, {wants.embedding_colours}, {scale})"

    def similarities(self, images: Tensor, targets: Tensor, cameras: Cameras | None) -> Tensor:
        """Cosines (M,) of the embeddings of images and targets (M, 3, S, S) in [-1, 1], both seen by cameras (M).

        Raises ConfigError for ArcFace's crop without cameras.
        """
        return (self.embed(images, cameras) * self.embed(targets, cameras)).sum(1)

    def embed(self, images: Tensor, cameras: Cameras | None) -> Tensor:
        """Embeddings (M, E) of length 1 of images (M, 3, S, S) in [-1, 1], seen by cameras (M). Raises ConfigError."""
        return F.normalize(self._read(images, cameras), dim=1)

    def _read(self, images: Tensor, cameras: Cameras | None) -> Tensor:
        [entry] = self.session.get_inputs()
        size = entry.shape[-1]
        boxes = self._boxes(len(images), images.shape[-1], cameras)
        crops = torch.stack([crop_image(image, box, size) for image, box in zip(images, boxes, strict=True)])
        wants = self.options
        pixels = crops.float().mul(127.5).add(127.5).sub(wants.embedding_mean).div(wants.embedding_std)
        if wants.embedding_colours == "bgr":
            pixels = pixels.flip(1)
        batch = 1 if entry.shape[0] == 1 else BATCH
        outputs = [self._run(entry.name, part.numpy()) for part in pixels.split(batch)]
        embeddings = torch.from_numpy(np.concatenate(outputs)).float()
        if embeddings.ndim != 2 or len(embeddings) != len(images) or not bool(embeddings.isfinite().all()):
            raise ConfigError(
                f"--embedding: {self.file.path}: its first output of {len(images)} pictures is "
                f"{tuple(embeddings.shape)} or not finite, must be a row of numbers a picture; {FOR_ONE}"
            )
        return embeddings

    def _run(self, entry: str, pixels: np.ndarray) -> np.ndarray:
        try:
            first: np.ndarray = self.session.run(None, {entry: pixels})[0]
        except Exception as error:  # of onnxruntime's own many kinds
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"--embedding: {self.file.path}: it doesn't run on {len(pixels)} pictures ({reason:.120}); {FOR_ONE}"
            ) from None
        return first

    def _boxes(self, count: int, size: int, cameras: Cameras | None) -> list[CropBox]:
        if self.options.embedding_crop == "whole":
            return [CropBox(size / 2, size / 2, size)] * count
        if cameras is None:
            raise ConfigError("--embedding-crop arcface needs cameras, and these pictures have none; use whole")
        return arcface_boxes(cameras, size)


def open_network(path: Path) -> Any:
    """An onnxruntime.InferenceSession on the CPU. Raises ConfigError."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ConfigError("--embedding needs the package onnxruntime; pip install 'nvb-face[metrics]'") from None
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = ERRORS_ONLY
    settings.intra_op_num_threads = torch.get_num_threads()  # its own default is all cores, in each process
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime's own many kinds
        reason = " ".join(str(error).split())
        raise ConfigError(f"--embedding: {path}: not a network that onnxruntime runs ({reason:.120})") from None
    _check_inputs(session, path)
    return session


def _check_inputs(session: Any, path: Path) -> None:
    shapes = [entry.shape for entry in session.get_inputs()]
    kinds = [entry.type for entry in session.get_inputs()]
    if (
        len(shapes) != 1
        or len(shapes[0]) != 4
        or shapes[0][1] != 3
        or not isinstance(shapes[0][2], int)
        or shapes[0][2] != shapes[0][3]
        or (isinstance(shapes[0][0], int) and shapes[0][0] != 1)
        or kinds != ["tensor(float)"]
    ):
        raise ConfigError(
            f"--embedding: {path}: its input is {kinds} {shapes}, must be one of float32, (any or 1, 3, S, S) with a "
            "fixed S"
        )


def arcface_boxes(cameras: Cameras, size: int) -> list[CropBox]:
    """ArcFace's crop of each picture of size × size pixels by the cameras (N) of aligned heads.

    As ArcFace does with found points: the similarity that brings the five points, seen from the camera, nearest to
    where its crop has them.
    """
    seen = cameras.project(torch.tensor(FACE_POINTS, dtype=torch.float64)) * size  # (N, 5, 2)
    return [_nearest_box(points) for points in seen]


def _nearest_box(points: Tensor) -> CropBox:
    """Least squares over similarities: with points as complex numbers, seen = factor · wanted + shift."""
    wanted = torch.view_as_complex(torch.tensor(ARCFACE_POINTS, dtype=torch.float64)) / ARCFACE_SIZE_PX - (0.5 + 0.5j)
    seen = torch.view_as_complex(points.double().contiguous())
    centred = wanted - wanted.mean()
    factor = (centred.conj() * seen).sum() / centred.abs().square().sum()
    center = complex(seen.mean() - factor * wanted.mean())
    return CropBox(center.real, center.imag, float(factor.abs()), float(torch.rad2deg(factor.angle())))
