"""The whole model: encoder, view transform, context, U-Net and autoencoder, as one module."""

from __future__ import annotations

from typing import Any

from torch import nn

from .autoencoder import Autoencoder
from .config import ModelConfig
from .denoiser import ContextEmbedding, build_unet
from .encoder import ImageEncoder
from .view_transform import ViewTransform


class NVBModel(nn.Module):
    """Submodules `encoder`, `view`, `context`, `unet`, `vae`; their names are the prefixes of a checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, Any] = {}
        self.encoder = ImageEncoder(config.encoder)
        self.view = ViewTransform(config)
        self.context = ContextEmbedding(config.channels, config.feature_size)
        self.unet = build_unet(config)
        self.vae = Autoencoder(config.vae)
