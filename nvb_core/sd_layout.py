"""Names of Stable Diffusion's tensors: diffusers' layout, which our modules have, and the original single file's.

    unet.down_blocks.0.resnets.1.norm1.weight   <->  model.diffusion_model.input_blocks.2.0.in_layers.0.weight
    vae.decoder.up_blocks.0.resnets.2.conv1.bias <->  first_stage_model.decoder.up.3.block.2.conv1.bias

Both ways, so that a base can be read from the files that artists have, and a trained U-Net written as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from .config import UNetConfig, VAEConfig

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_UNET_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_VAE_BLOCK = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet_name(name: str, config: UNetConfig) -> str:
    """diffusers' name of a U-Net tensor -> the original file's, without UNET_PREFIX. Raises ValueError."""
    layers, levels = config.layers_per_block, len(config.block_out_channels)
    if match := _UNET_MIDDLE.fullmatch(name):
        kind, index, rest = match.groups()
        return f"middle_block.1.{rest}" if kind == "attentions" else f"middle_block.{2 * int(index)}.{_resnet(rest)}"
    if match := _UNET_BLOCK.fullmatch(name):
        side, level, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        first = (layers + 1) * level + (side == "down")  # input block 0 is conv_in
        blocks = "input_blocks" if side == "down" else "output_blocks"
        if kind == "resnets":
            return f"{blocks}.{first + index}.0.{_resnet(rest)}"
        if kind == "attentions":
            return f"{blocks}.{first + index}.1.{rest}"
        if kind == "downsamplers":
            return f"{blocks}.{first + layers}.0.op.{rest.removeprefix('conv.')}"
        place = 1 + config.cross_attention[levels - 1 - level]  # behind the attention, where there is one
        return f"{blocks}.{first + layers}.{place}.{rest}"
    return _replaced(name, _UNET_ENDS)


def original_vae_name(name: str, config: VAEConfig) -> str:
    """diffusers' name of an autoencoder tensor -> the original file's, without VAE_PREFIX. Raises ValueError."""
    if match := _VAE_MIDDLE.fullmatch(name):
        part, kind, index, rest = match.groups()
        if kind == "attentions":
            return f"{part}.mid.attn_1.{_replaced(rest, _VAE_ATTENTION)}"
        return f"{part}.mid.block_{int(index) + 1}.{_shortcut(rest)}"
    if match := _VAE_BLOCK.fullmatch(name):
        part, side, level, kind, index, rest = match[1], match[2], int(match[3]), match[4], match[5], match[6]
        if side == "up":
            level = len(config.block_out_channels) - 1 - level
        if kind == "resnets":
            return f"{part}.{side}.{level}.block.{index}.{_shortcut(rest)}"
        return f"{part}.{side}.{level}.{side}sample.{rest}"
    return name.replace("conv_norm_out", "norm_out")


def unet_names(names: Iterable[str], config: UNetConfig) -> dict[str, str]:
    """Each of diffusers' names with the original file's."""
    return {name: UNET_PREFIX + original_unet_name(name, config) for name in names}


def vae_names(names: Iterable[str], config: VAEConfig) -> dict[str, str]:
    """Each of diffusers' names with the original file's."""
    return {name: VAE_PREFIX + original_vae_name(name, config) for name in names}


def to_original_shape(name: str, tensor: Tensor) -> Tensor:
    """A tensor under diffusers' name, shaped as in the original file: there an autoencoder's attention convolves."""
    return tensor[:, :, None, None] if _is_vae_projection(name) and tensor.ndim == 2 else tensor


def from_original_shape(name: str, tensor: Tensor) -> Tensor:
    """Inverse of `to_original_shape`; what is shaped as diffusers has it already is left alone."""
    pointwise = tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
    return tensor[:, :, 0, 0] if _is_vae_projection(name) and pointwise else tensor


def _is_vae_projection(name: str) -> bool:
    match = _VAE_MIDDLE.fullmatch(name)
    return bool(match) and match[2] == "attentions" and name.endswith(".weight") and ".to_" in name  # type: ignore[index]


def _resnet(rest: str) -> str:
    return _replaced(rest, _UNET_RESNET)


def _shortcut(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")


def _replaced(name: str, table: dict[str, str]) -> str:
    """The name with its start replaced; what follows is `.weight` or `.bias`."""
    start, _, end = name.rpartition(".")
    if start not in table:
        raise ValueError(f"{name!r} isn't a tensor of Stable Diffusion")
    return f"{table[start]}.{end}"
