"""More latent channels for a trained model: what it knows stays, the new channels start from nothing."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel

# Tensors with latent channels, and which of their axes count them: "z" are latents, "m" moments (means, log-variances).
AXES = {
    "vae.kl.encoder.conv_out.weight": {0: "m"},
    "vae.kl.encoder.conv_out.bias": {0: "m"},
    "vae.kl.quant_conv.weight": {0: "m", 1: "m"},
    "vae.kl.quant_conv.bias": {0: "m"},
    "vae.kl.post_quant_conv.weight": {0: "z", 1: "z"},
    "vae.kl.post_quant_conv.bias": {0: "z"},
    "vae.kl.decoder.conv_in.weight": {1: "z"},
    "vae.latent_mean": {0: "z"},
    "vae.latent_std": {0: "z"},
    "vae.preview_weight": {1: "z"},
    "unet.conv_in.weight": {1: "z"},
    "unet.conv_out.weight": {0: "z"},
    "unet.conv_out.bias": {0: "z"},
}
ZERO = ("vae.kl.decoder.conv_in", "unet.conv_in", "unet.conv_out", "vae.preview_weight")
"""Of these the new channels start at zero, so that the wide model does what the narrow one did."""


def widen_latents(model: NVBModel, channels: int) -> NVBModel:
    """A copy of a complete model with `channels` latent channels, which decodes and denoises as before.

    Raises ConfigError if the model has more than that already.
    """
    old = model.config.vae.latent_channels
    if channels < old:
        raise ConfigError(f"the model has {old} latent channels already; latent_channels is {channels}")
    wide = NVBModel(replace(model.config, vae=replace(model.config.vae, latent_channels=channels)))
    wide.metadata = model.metadata
    kept = {"z": torch.arange(old), "m": torch.cat([torch.arange(old), channels + torch.arange(old)])}
    state = wide.state_dict()
    for name, value in model.state_dict().items():
        places = {axis: kept[kind] for axis, kind in AXES.get(name, {}).items()}
        state[name] = _placed(value, _new_channels(name, state[name]), places)
    wide.load_state_dict(state)
    return wide.requires_grad_(False).eval()


def _new_channels(name: str, start: Tensor) -> Tensor:
    """What a wide tensor holds before the old values are put in."""
    if "quant_conv.weight" in name:
        return torch.eye(len(start))[:, :, None, None]
    return torch.zeros_like(start) if name.startswith(ZERO) else start.clone()


def _placed(old: Tensor, new: Tensor, kept: dict[int, Tensor]) -> Tensor:
    """`new` with `old` at the `kept` indices of some axes, and at all of the others."""
    index = [kept.get(axis, torch.arange(size)) for axis, size in enumerate(old.shape)]
    new[torch.meshgrid(*index, indexing="ij")] = old
    return new
