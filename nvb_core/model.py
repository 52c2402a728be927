"""The whole model: encoder, view transform, context, U-Net and autoencoder, as one module."""

from __future__ import annotations

from typing import Any

from torch import nn

from .autoencoder import Autoencoder
from .config import ModelConfig
from .denoiser import ContextEmbedding, build_unet
from .encoder import ImageEncoder
from .layers import Operations
from .view_transform import ViewTransform


class NVBModel(nn.Module):
    """Submodules `encoder`, `view`, `context`, `unet`, `vae`; their names are the prefixes of a checkpoint.

    The first three take their layers from `operations`; diffusers' `unet` and `vae` have torch's.
    """

    def __init__(self, config: ModelConfig, operations: Operations = nn) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, Any] = {}
        self.encoder = ImageEncoder(config.encoder, operations)
        self.view = ViewTransform(config, operations)
        self.context = ContextEmbedding(config.channels, config.feature_size, operations)
        self.unet = build_unet(config)
        self.vae = Autoencoder(config.vae)
