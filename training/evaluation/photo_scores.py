"""Pictures that a model makes of a photo, and what can be said of them without knowing the truth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nvb_core.align import crop_image, refine_box
from nvb_core.cameras import Cameras
from nvb_core.cli.faces import FacePlan
from nvb_core.images import to_pil
from nvb_core.model import NVBModel
from nvb_core.pipeline import encode_faces, predict_cameras, predict_source, render_cameras, restore
from nvb_core.sampling import SamplingOptions

from ..judges.judges import load_judges
from .embedding import Embedding
from .flow import flow_agreement
from .metrics import psnr
from .niqe import niqe

VIEWS_DEG = (-40.0, -20.0, 0.0, 20.0, 40.0)
"""Yaw of the views that are drawn of every photo, in the frame `face`."""
PAIR_DEG = (10.0, 15.0)
"""Yaw of two neighbours."""
COARSE = 8
"""A photo says what a view should look like only as far as it is sharp: compared are means over COARSE² pixels."""


@dataclass(frozen=True, eq=False)
class PhotoPictures:
    """Images (3, S, S) or (N, 3, S, S) float32 in [-1, 1]."""

    crop: Tensor
    restored: Tensor
    """By step 1 alone."""
    turned: Tensor
    """Through the 3D grid, from the photo's own camera."""
    views: Tensor
    pair: Tensor
    camera: Cameras
    """1, predicted."""

    def strip(self) -> Image.Image:
        """Photo, restoration, the same view through the grid, views from left to right."""
        return to_pil(torch.cat([self.crop, self.restored, self.turned, *self.views], dim=-1))


@dataclass(frozen=True)
class PhotoScores:
    """One photo."""

    name: str
    yaw_deg: float
    """Of the predicted camera."""
    pitch_deg: float
    restored_psnr: float
    """In dB against the photo, both as means over COARSE² pixels."""
    turned_psnr: float
    flow_psnr: float | None
    """Of neighbours 5° apart, in dB; None if no flow between them agrees."""
    flow_share: float
    niqe: float | None
    """Of the views together; None where there is no model of clean pictures of this size."""
    identity: float
    """Mean cosine of the ID judge's embeddings of the restoration and of each view."""
    pose_error_deg: float
    """Mean difference of the yaw that the POSE judge reads in a view from the one asked for."""
    plugged: PluggedEmbeddings | None = None
    """By the network that was given, if one was."""


@dataclass(frozen=True)
class PluggedEmbeddings:
    """What an identity network makes of a photo's pictures; rows of length 1, but for views, which are the mean."""

    photo: tuple[float, ...]
    restored: tuple[float, ...]
    turned: tuple[float, ...]
    views: tuple[float, ...]

    def cosine(self, other: tuple[float, ...]) -> float:
        """Of the photo and another row; of the mean row it is the mean cosine."""
        return sum(a * b for a, b in zip(self.photo, other, strict=True))


def draw_photo(model: NVBModel, photo: Tensor, faces: FacePlan, sampling: SamplingOptions) -> PhotoPictures:
    """Crop, restore and turn the chosen face of a photo (3, H, W). Raises FaceNotFoundError or ConfigError."""
    [box, *_] = faces.boxes(photo)
    size = model.config.image_size
    if faces.refine:
        box = refine_box(photo, box, lambda crop: predict_cameras(model, crop), size)
    crop = crop_image(photo, box, size)
    camera = predict_source(model, encode_faces(model, crop[None]))
    asked = Cameras.from_angles([*VIEWS_DEG, *PAIR_DEG], 0.0)
    drawn = render_cameras(model, crop[None], [Cameras.cat([camera, asked])], sampling, source=camera).cpu()
    turned, views, pair = drawn.split([1, len(VIEWS_DEG), len(PAIR_DEG)])
    restored = restore(model, crop[None], sampling).cpu()
    return PhotoPictures(crop, restored[0], turned[0], views, pair, camera)


def score_photo(name: str, pictures: PhotoPictures, embedding: Embedding | None = None) -> PhotoScores:
    """Measure a photo's pictures. Raises ConfigError for a network that gives no embeddings."""
    angles = pictures.camera.angles()
    flow = flow_agreement(*pictures.pair)
    readings = load_judges().read(torch.cat([pictures.restored[None], pictures.views]))
    own, *others = readings.embeddings
    yaws = readings.angles_deg[1:, 0] - torch.tensor(VIEWS_DEG)
    return PhotoScores(
        name=name,
        yaw_deg=float(angles.yaw_deg),
        pitch_deg=float(angles.pitch_deg),
        restored_psnr=coarse_psnr(pictures.restored, pictures.crop),
        turned_psnr=coarse_psnr(pictures.turned, pictures.crop),
        flow_psnr=flow.psnr,
        flow_share=flow.share,
        niqe=niqe(pictures.views),
        identity=float(torch.stack(others).matmul(own).mean()),
        pose_error_deg=float(yaws.abs().mean()),
        plugged=None if embedding is None else embed_photo(pictures, embedding),
    )


def embed_photo(pictures: PhotoPictures, embedding: Embedding) -> PluggedEmbeddings:
    """Read photo, restoration and its own view as the predicted camera sees them, and the views. Raises ConfigError."""
    known = torch.stack([pictures.crop, pictures.restored, pictures.turned])
    cameras = Cameras.cat([pictures.camera] * len(known) + [Cameras.from_angles(list(VIEWS_DEG), 0.0)])
    read = embedding.embed(torch.cat([known, pictures.views]), cameras)
    rows = [*read[: len(known)], read[len(known) :].mean(0)]
    return PluggedEmbeddings(*(tuple(row.tolist()) for row in rows))


def coarse_psnr(image: Tensor, photo: Tensor) -> float:
    """PSNR in dB of (3, S, S) against (3, S, S), as means over COARSE² pixels."""
    return float(psnr(*(F.avg_pool2d(picture[None], COARSE) for picture in (image, photo))))
