"""Image (B, 3, H, W) in [-1, 1] <-> normalised latent (B, Z, H/8, W/8), and a cheap preview of a latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import VAEConfig


class Autoencoder(nn.Module):
    """diffusers' `AutoencoderKL` whose latents are shifted and scaled to zero mean and unit deviation per channel.

    `latent_mean`, `latent_std` (Z,) are measured after training (`mini`) or 0 and 1/scaling_factor (Stable Diffusion).
    `preview_weight` (3, Z) and `preview_bias` (3,) map a normalised latent to a small picture.
    """

    latent_mean: Tensor
    latent_std: Tensor
    preview_weight: Tensor
    preview_bias: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        levels = len(config.block_out_channels)
        self.patch = config.patch
        self.kl = AutoencoderKL(
            in_channels=3 * config.patch**2,
            out_channels=3 * config.patch**2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_groups,
            mid_block_add_attention=config.mid_attention,
        )
        channels = config.latent_channels
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.full((channels,), 1.0 / config.scaling_factor))
        self.register_buffer("preview_weight", torch.zeros(3, channels))
        self.register_buffer("preview_bias", torch.zeros(3))

    def encode_raw(self, images: Tensor) -> Tensor:
        """Mean of the posterior, not normalised: (B, 3, H, W) -> (B, Z, H/8, W/8)."""
        return self.kl.encode(F.pixel_unshuffle(images, self.patch)).latent_dist.mode()

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> normalised latent (B, Z, H/8, W/8)."""
        raw = self.encode_raw(images)
        return (raw - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def raw(self, latents: Tensor) -> Tensor:
        """Normalised latent -> the one that `decode_raw` takes and other programs exchange, float32."""
        return latents.float() * self.latent_std[:, None, None] + self.latent_mean[:, None, None]

    def decode_raw(self, raw: Tensor) -> Tensor:
        """Inverse of `encode_raw`."""
        return F.pixel_shuffle(self.kl.decode(raw).sample, self.patch)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latent (B, Z, H/8, W/8) -> images (B, 3, H, W), about [-1, 1]."""
        return self.decode_raw(self.raw(latents).to(latents.dtype))

    def preview(self, latents: Tensor) -> Tensor:
        """Normalised latent (B, Z, h, w) -> picture (B, 3, h, w) in [-1, 1] at the latent's size."""
        weight, bias = self.preview_weight.float(), self.preview_bias.float()
        picture = torch.einsum("rz,bzhw->brhw", weight, latents.float()) + bias[:, None, None]
        return picture.clamp(-1, 1)
