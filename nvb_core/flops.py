"""Floating-point operations of a model, counted by running its modules on tensors without data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import ModelConfig
from .model import NVBModel
from .view_transform import CAMERA_CHANNELS


@dataclass(frozen=True)
class FlopCounts:
    """Operations of each stage for one face, view or picture; a multiply-add counts as two.

    Counted are convolutions, matrix products and attention, which is what `torch.utils.flop_counter` knows. Norms,
    activations and the frustum's `grid_sample` (some 10^8 at paper scale, a ten-thousandth of the U-Net) are not.
    """

    encoder: int
    volume: int
    aggregator: int
    """Frustum features -> U-Net context."""
    unet: int
    camera_predictor: int
    vae_encode: int
    vae_decode: int

    @property
    def per_face_step(self) -> int:
        """What each timestep costs once for a face, however many views it has."""
        return self.encoder + self.volume

    @property
    def per_view_step(self) -> int:
        """What each timestep costs for every view."""
        return self.aggregator + self.unet

    def total(self, views: int, steps: int, faces: int = 1) -> int:
        """A whole run, `views` of each face, the prediction of its camera included."""
        per_view = steps * self.per_view_step + self.vae_decode
        per_face = steps * self.per_face_step + self.encoder + self.camera_predictor
        return faces * (per_face + views * per_view)


def count_flops(config: ModelConfig) -> FlopCounts:
    """FlopCounts of a configuration; takes seconds and no memory to speak of at any size."""
    view, channels, cells = config.view, config.channels, config.feature_size
    with torch.device("meta"):
        model = NVBModel(config).requires_grad_(False)
        image = torch.empty(1, 3, config.image_size, config.image_size)
        latent = torch.empty(1, config.vae.latent_channels, config.latent_size, config.latent_size)
        features = torch.empty(1, channels, cells, cells)
        frustum = torch.empty(1, channels, view.depth_samples, cells, cells)
        inside = torch.empty(1, view.depth_samples, cells, cells, dtype=torch.bool)
        tokens = torch.empty(1, cells**2, channels)
        camera = torch.empty(1, CAMERA_CHANNELS)
        t = torch.empty(1, dtype=torch.long)
        return FlopCounts(
            encoder=count(lambda: model.encoder(image, t)),
            volume=count(lambda: model.view.volume(features, camera, t)),
            aggregator=count(lambda: model.context(model.view.aggregator(frustum, inside, t))),
            unet=count(lambda: model.unet(latent, t, tokens).sample),
            camera_predictor=count(lambda: model.view.camera_predictor(features)),
            vae_encode=count(lambda: model.vae.encode(image)),
            vae_decode=count(lambda: model.vae.decode(latent)),
        )


def count(run: Callable[[], Tensor]) -> int:
    """Operations of what `run` calls."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
