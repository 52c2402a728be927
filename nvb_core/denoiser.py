"""Noisy latents and view features -> the U-Net's prediction; and the noise schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange
from torch import Tensor, nn

from .config import ModelConfig, ScheduleConfig
from .errors import ConfigError
from .layers import Operations, PositionedConv, grid_position

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DConditionModel


class ContextEmbedding(nn.Module):
    """View features -> tokens for the U-Net's cross-attention, in the place of SD's text tokens."""

    def __init__(self, channels: int, size: int, operations: Operations = nn) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(channels)
        self.position = nn.Parameter(grid_position(channels, size, size)[None])

    def forward(self, features: Tensor) -> Tensor:
        """features (B, C, h, w) -> (B, h·w, C)."""
        return self.norm(rearrange(features, "b c h w -> b (h w) c")) + self.position.to(features.device)


def build_unet(config: ModelConfig) -> UNet2DConditionModel:
    """The U-Net of a configuration, with random weights."""
    from diffusers import UNet2DConditionModel

    unet = config.unet
    down = tuple("CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in unet.cross_attention)
    up = tuple("CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(unet.cross_attention))
    model = UNet2DConditionModel(
        sample_size=config.latent_size,
        in_channels=config.vae.latent_channels,
        out_channels=config.vae.latent_channels,
        block_out_channels=unet.block_out_channels,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=unet.layers_per_block,
        attention_head_dim=unet.attention_heads,
        cross_attention_dim=config.channels,
        use_linear_projection=unet.use_linear_projection,
        norm_num_groups=unet.norm_groups,
    )
    if unet.learned_position:
        model.conv_in = PositionedConv(model.conv_in, config.latent_size)
    return model


def build_scheduler(config: ScheduleConfig) -> DDIMScheduler:
    """DDIM with Stable Diffusion's settings, which aren't the library's defaults."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=config.train_timesteps,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=config.prediction_type,
        rescale_betas_zero_snr=config.zero_terminal_snr,
        timestep_spacing=config.timestep_spacing,
    )


def sampling_scheduler(config: ScheduleConfig, steps: int) -> DDIMScheduler:
    """DDIM set to `steps` timesteps. Raises ConfigError if the schedule hasn't as many, or one that removes nothing."""
    leading = config.timestep_spacing == "leading"  # whose timesteps are offset by one; a single one is the cleanest
    least, most = 1 + leading, config.train_timesteps - leading
    if not least <= steps <= most:
        raise ConfigError(f"steps is {steps}, this model's schedule takes {least} to {most}")
    scheduler = build_scheduler(config)
    scheduler.set_timesteps(steps)
    scheduler.timesteps = scheduler.timesteps[:steps]  # with some counts, 61 for one, rounding appends a timestep of -1
    return scheduler
