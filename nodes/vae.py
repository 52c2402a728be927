"""The autoencoder as core's VAE type: its VAE Decode, VAE Decode (Tiled) and VAE Encode take it as their own."""

from __future__ import annotations

import torch
from comfy.sd import VAE
from torch import Tensor, nn

from ..nvb_core.autoencoder import Autoencoder
from ..nvb_core.model import NVBModel
from .networks import DECODING_BYTES_PER_PIXEL, ENCODING_BYTES_PER_PIXEL, bytes_per_number, managed


class NVBVAE(VAE):
    """Latents aren't normalised, images are (B, H, W, 3) in [0, 1], as everywhere in ComfyUI."""

    def __init__(self, model: NVBModel) -> None:
        dtype = next(model.vae.parameters()).dtype
        # Set up as core's simplest VAE, so that whatever else this version of core expects of a VAE is there.
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=dtype)
        self.model = model
        self.first_stage_model = RawLatents(model.vae)
        self.patcher = managed(self.first_stage_model)
        self.device = self.patcher.load_device
        self.latent_channels = model.config.vae.latent_channels
        self.upscale_ratio = self.downscale_ratio = model.config.vae.downscale
        self.disable_offload = True  # diffusers' layers can't run from a part of the weights
        self.size = None  # measured again when asked for
        number = bytes_per_number(model.vae)
        side = model.config.vae.downscale
        self.memory_used_encode = lambda shape, _: shape[2] * shape[3] * ENCODING_BYTES_PER_PIXEL * number
        self.memory_used_decode = lambda shape, _: shape[2] * shape[3] * side**2 * DECODING_BYTES_PER_PIXEL * number
        self.process_input = _to_core
        self.process_output = _to_comfy


class RawLatents(nn.Module):
    """The autoencoder with latents as it makes them, not normalised: what core's samplers take and give."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae
        self.encode, self.decode = vae.encode_raw, vae.decode_raw


def _to_core(image: Tensor) -> Tensor:
    return image * 2 - 1


def _to_comfy(image: Tensor) -> Tensor:
    """In place as core's own: newer versions of core don't look at what it returns."""
    return image.add_(1).div_(2).clamp_(0, 1)
