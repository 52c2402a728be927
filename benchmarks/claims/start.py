"""A trained model moved to another size of picture, or given another view transform: where experiments start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from nvb_core.config import ModelConfig
from nvb_core.model import NVBModel

NEW_IN_STEP_2 = ("view.volume.", "view.aggregator.")
"""What step 2 starts anew; the camera predictor comes from step 1."""


def _pooled_tokens(old: Tensor, new: Tensor) -> Tensor:
    """Positions (…, n², C) of square grids of cells, as means over cells."""
    side_old, side_new = (round(tensor.shape[-2] ** 0.5) for tensor in (old, new))
    cells = rearrange(old.flatten(0, -3), "b (h w) c -> b c h w", h=side_old)
    pooled = F.adaptive_avg_pool2d(cells, side_new)
    return rearrange(pooled, "b c h w -> b (h w) c").view_as(new)


POSITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "view.camera_predictor.position": _pooled_tokens,
    "view.volume.position": _pooled_tokens,
    "view.aggregator.position": _pooled_tokens,
    "context.position": _pooled_tokens,
    "unet.conv_in.position": lambda old, new: F.adaptive_avg_pool2d(old, new.shape[-1]),
}


def resized(model: NVBModel, image_size: int, name: str) -> NVBModel:
    """A complete model for smaller pictures: all its weights, learned positions as means over cells."""
    small = NVBModel(replace(model.config, name=name, image_size=image_size))
    state, start = model.state_dict(), small.state_dict()
    small.load_state_dict({key: POSITIONS.get(key, _same)(value, start[key]) for key, value in state.items()})
    small.metadata = model.metadata
    return small.requires_grad_(False).eval()


def _same(old: Tensor, new: Tensor) -> Tensor:
    return old


def with_new_views(model: NVBModel, config: ModelConfig, seed: int) -> NVBModel:
    """A complete model with the grid and the depth aggregation of `config`, untrained; all else as it was.

    The same seed gives the same start where the shapes are the same.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = NVBModel(config)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith(NEW_IN_STEP_2)}
    fresh.load_state_dict({**fresh.state_dict(), **kept})
    fresh.metadata = model.metadata
    return fresh.requires_grad_(False).eval()


def without_time(model: NVBModel) -> NVBModel:
    """The model itself, its encoder made blind to the diffusion time: it always sees timestep 0."""

    def blind(_: torch.nn.Module, arguments: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        lq, timesteps = arguments
        return lq, torch.zeros_like(timesteps)

    model.encoder.register_forward_pre_hook(blind)
    return model
