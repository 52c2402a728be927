"""The stages of the data flow as functions, and whole runs made of them.

```
encode_faces -> predict_cameras
      +-------> build_grid -> ViewFeatures(cameras) -> sample_latents -> decode_latents
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .camera_paths import CameraPoses
from .cameras import Cameras
from .errors import ConfigError
from .fit import fitted_grid
from .model import NVBModel
from .sampling import Chunks, SamplingOptions, StepInfo, decode_latents, sample_latents
from .timed import TimeConditioned

LOWEST_NOISE_TIMESTEP = 0
FACES_AT_ONCE = 8
"""That are encoded (chosen); a chunk that doesn't fit is halved."""
PREDICTION_LIMITS = {"distance": (0.5, 2.0), "focal": (0.25, 4.0), "principal": (-0.5, 1.5)}

OnStep = Callable[[StepInfo], None]
ShouldCancel = Callable[[], bool]


@dataclass(frozen=True)
class RenderedViews:
    """Views of one face."""

    images: Tensor
    """(N, 3, S, S) float32 in [-1, 1]."""
    cameras: Cameras
    """N, where the views are seen from."""
    source_camera: Cameras
    """1, where the photo was taken from: predicted, or as given."""


@torch.no_grad()
def encode_faces(model: NVBModel, crops: Tensor, device: torch.device | None = None) -> TimeConditioned:
    """Aligned crops (B, 3, S, S) in [-1, 1] -> features (B, C, h, w) per timestep.

    They are computed on `device`; by default where the encoder's weights are.
    """
    size = model.config.image_size
    if crops.ndim != 4 or tuple(crops.shape[1:]) != (3, size, size):
        raise ConfigError(f"face crops have shape {tuple(crops.shape)}, the model needs (B, 3, {size}, {size})")
    parameter = next(model.encoder.parameters())
    images = crops.to(device or parameter.device, parameter.dtype)
    chunks = Chunks(len(images), FACES_AT_ONCE)

    @torch.no_grad()
    def compute(timestep: int) -> Tensor:
        def encode(start: int, end: int) -> Tensor:
            return model.encoder(images[start:end], torch.full((end - start,), timestep, device=images.device))

        return torch.cat(list(chunks.map(encode)))

    return TimeConditioned(compute)


@torch.no_grad()
def predict_source(model: NVBModel, features: TimeConditioned) -> Cameras:
    """Cameras (B) that the photos were taken from, predicted once, at the lowest-noise timestep.

    Whatever the picture shows, the camera is a usable one: PREDICTION_LIMITS bound focal length and distance (in units
    of the normal ones) and the principal point (in picture widths).
    """
    vector = model.view.camera_predictor(features.at(LOWEST_NOISE_TIMESTEP)).cpu().double()
    translation = vector[:, 3:12:4]
    distance = translation.norm(dim=1, keepdim=True)
    vector[:, 3:12:4] = translation / distance * distance.clamp(*PREDICTION_LIMITS["distance"])
    vector[:, 12:14].clamp_(*PREDICTION_LIMITS["focal"])
    vector[:, 14:].clamp_(*PREDICTION_LIMITS["principal"])
    return Cameras.from_vector(vector)


def predict_cameras(model: NVBModel, crops: Tensor, device: torch.device | None = None) -> Cameras:
    """Cameras (B) of crops (B, 3, S, S), computed as by `encode_faces`."""
    return predict_source(model, encode_faces(model, crops, device))


def build_grid(model: NVBModel, features: TimeConditioned, source: Cameras, fit_steps: int = 0) -> TimeConditioned:
    """3D latent grid (B, C, z, y, x) per timestep, from features and the B source cameras; see `fit` for fit_steps."""
    chunks = Chunks(len(source), FACES_AT_ONCE)

    @torch.no_grad()
    def compute(timestep: int) -> Tensor:
        value = features.at(timestep).to(next(model.view.volume.parameters()).dtype)  # the encoder may have another
        if len(source) != len(value):
            raise ConfigError(f"{len(source)} source cameras for {len(value)} faces; give one for each")
        camera = source.to_vector().to(value.device, value.dtype)

        def build(start: int, end: int) -> Tensor:
            timesteps = torch.full((end - start,), timestep, device=value.device)
            return model.view.volume(value[start:end], camera[start:end], timesteps)

        return torch.cat(list(chunks.map(build)))

    if not fit_steps:
        return TimeConditioned(compute)
    return fitted_grid(model, features, TimeConditioned(compute, cache_bytes=0), source, fit_steps)


class ViewFeatures:
    """Features of B faces × N views, face-major, per timestep and range of views; nothing here is cached."""

    def __init__(self, model: NVBModel, grid: TimeConditioned, cameras: Sequence[Cameras]) -> None:
        self.model, self.grid = model, grid
        self.faces, self.views_per_face = len(cameras), len(cameras[0])
        if any(len(c) != self.views_per_face for c in cameras):
            raise ConfigError("every face needs the same number of cameras")
        self.cameras = Cameras.cat(list(cameras))

    @torch.no_grad()
    def at(self, timestep: int, start: int, end: int) -> Tensor:
        """Features (end - start, C, h, w) of the views start … end-1."""
        grid = self.grid.at(timestep)
        parts = []
        for face in range(start // self.views_per_face, (end - 1) // self.views_per_face + 1):
            first = face * self.views_per_face
            chosen = slice(max(start, first), min(end, first + self.views_per_face))
            cam2world, intrinsics = (
                m[chosen][None].to(grid.device, torch.float32)
                for m in (self.cameras.cam2world, self.cameras.intrinsics)
            )
            timesteps = torch.full((1,), timestep, device=grid.device)
            parts.append(self.model.view.view_features(grid[face : face + 1], cam2world, intrinsics, timesteps))
        return torch.cat(parts)


def sample_views(
    model: NVBModel,
    features: ViewFeatures,
    options: SamplingOptions,
    on_step: OnStep | None = None,
    should_cancel: ShouldCancel | None = None,
) -> Tensor:
    """Latents (B·N, Z, h, w) of the views, face-major."""

    def context(timestep: int, start: int, end: int) -> Tensor:
        return model.context(features.at(timestep, start, end))

    faces, views = features.faces, features.views_per_face
    return sample_latents(model, context, faces, views, options, on_step, should_cancel)


def render_cameras(
    model: NVBModel, crops: Tensor, cameras: Sequence[Cameras], options: SamplingOptions, source: Cameras | None = None
) -> Tensor:
    """Views (B·N, 3, S, S) of B crops (B, 3, S, S), each from its own N cameras."""
    features = encode_faces(model, crops)
    source = predict_source(model, features) if source is None else source
    views = ViewFeatures(model, build_grid(model, features, source, options.fit_steps), cameras)
    return decode_latents(model, sample_views(model, views, options), options.views_per_chunk)


def render_views(
    model: NVBModel,
    crop: Tensor,
    poses: CameraPoses | Cameras,
    options: SamplingOptions,
    source_camera: Cameras | None = None,
    on_step: OnStep | None = None,
    should_cancel: ShouldCancel | None = None,
) -> RenderedViews:
    """Views of one face from its aligned crop (3, S, S); `source_camera` (1) overrides the predicted one."""
    features = encode_faces(model, crop[None])
    source = predict_source(model, features) if source_camera is None else source_camera
    cameras = poses if isinstance(poses, Cameras) else poses.resolve(source)
    views = ViewFeatures(model, build_grid(model, features, source, options.fit_steps), [cameras])
    latents = sample_views(model, views, options, on_step, should_cancel)
    images = decode_latents(model, latents, options.views_per_chunk, device="cpu")
    return RenderedViews(images, cameras, source)


@torch.no_grad()
def restore(model: NVBModel, crops: Tensor, options: SamplingOptions) -> Tensor:
    """Step 1 alone: degraded crops (B, 3, S, S) -> the same pictures, sharp; the view transform is not used."""
    features = encode_faces(model, crops)

    def context(timestep: int, start: int, end: int) -> Tensor:
        return model.context(features.at(timestep)[start:end])

    latents = sample_latents(model, context, len(crops), 1, options)
    return decode_latents(model, latents, options.views_per_chunk)
