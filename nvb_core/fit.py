"""Fit a face's 3D grid to its photo: gradient steps until the photo's own view gives back what the encoder saw there.

The grid is made in one go, and loses of a photo what the network hasn't learned to hold. But photo and camera are
known: through the same frustum and depth aggregation that views are taken by, one correction of the grid is sought that
brings the features of the photo's own view nearer to the photo's. All views profit, since they are taken from the same
cells. The paper has no such step; the loss is its feature loss (Eq. 7, first term), the idea that of fitting a
generator to one picture (pivotal tuning, Roich et al. 2021), here with a frozen network.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from .cameras import Cameras
from .frustum import sample_frustum
from .lift import resampled
from .model import NVBModel
from .timed import TimeConditioned

FIT_STEPS = 20
"""More help the photo's own view alone (`python -m benchmarks.fit`)."""
RATE = 0.12
"""A quarter of it is .1 dB nearer to the truth on synthetic heads, and farther from real photos by all that tells."""
LAST_RATE = 0.2
"""Of the last step, relative to the first."""
EPSILON = 0.3
"""Adam's, relative to the first gradient: without it, cells that the photo says little of would move as far as any."""


def fitted_grid(
    model: NVBModel, features: TimeConditioned, grid: TimeConditioned, source: Cameras, steps: int
) -> TimeConditioned:
    """Grids (B, C, z, y, x) per timestep, corrected; one correction per face serves all timesteps.

    Where a `PhotoLift` has made the grid finer, the correction is of the g³ cells before that, and is made finer too.
    It is sought when a grid is asked for first, in the middle of the diffusion. features (B, C, h, w) and grid per
    timestep; source holds B cameras.
    """

    @functools.cache
    def correction() -> Tensor:
        timestep = model.config.schedule.train_timesteps // 2
        # Under ComfyUI's inference mode tensors can't take part in gradients; clones made outside of it can.
        with torch.inference_mode(False), torch.enable_grad():
            wanted, start = features.at(timestep).clone(), grid.at(timestep).clone()
            # ComfyUI may have left weights off the device, and newer ones bring all layers' there by the same memory:
            # the backward pass would find another layer's in it.
            parameters = model.view.aggregator.named_parameters()
            weights = {name: value.to(start.device, copy=True) for name, value in parameters}
            faces = range(len(source))
            return torch.cat([_correct(model, weights, start[i], wanted[i], source[i], timestep, steps) for i in faces])

    @torch.no_grad()
    def compute(timestep: int) -> Tensor:
        value = grid.at(timestep)
        return (value.float() + resampled(correction(), value.shape[-1])).to(value.dtype)

    return TimeConditioned(compute)


def _correct(
    model: NVBModel,
    weights: dict[str, Tensor],
    grid: Tensor,
    wanted: Tensor,
    source: Cameras,
    timestep: int,
    steps: int,
) -> Tensor:
    """Of one face's grid (C, z, y, x), for its photo's features (C, h, w): (1, C, g, g, g) float32.

    `weights` are the depth aggregation's.
    """
    start, inside = _sampled(model, source, grid[None].float())  # (1, C, D·h·w)
    frustum_of, _ = _sampled(model, source, _each_cell(model, grid))  # (1, g³, D·h·w)
    timesteps, target = torch.full((1,), timestep, device=grid.device), normalised_features(wanted[None])
    cells = (model.view.volume.grid_size,) * 3
    correction = torch.zeros(1, len(grid), *cells, device=grid.device, requires_grad=True)
    optimizer = torch.optim.Adam([correction])
    for step in range(steps):
        frustum = (start + correction.flatten(2) @ frustum_of[0]).to(grid.dtype).unflatten(2, inside.shape[1:])
        with sdpa_kernel(SDPBackend.MATH):  # the same from run to run, and on CPUs quicker where rays are short
            features = functional_call(model.view.aggregator, weights, (frustum, inside, timesteps))
        # A sum, which half precision can still tell from nothing; steps don't depend on the loss's scale.
        loss = F.mse_loss(normalised_features(features), target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, correction)
        if step == 0:
            optimizer.param_groups[0]["eps"] = EPSILON * gradient.square().mean().sqrt().item() or 1.0
        optimizer.param_groups[0]["lr"] = RATE * (1 - (1 - LAST_RATE) * step / steps)
        correction.grad = gradient
        optimizer.step()
    return correction.detach()


def _sampled(model: NVBModel, source: Cameras, grids: Tensor) -> tuple[Tensor, Tensor]:
    """Grids (1, K, z, y, x) in the frustum of one camera (1, K, D·h·w), and which samples are inside (1, D, h, w)."""
    cam2world, intrinsics = (m[None].to(grids.device, torch.float32) for m in (source.cam2world, source.intrinsics))
    size = (model.view.grid_extent, model.view.depth_samples, model.view.feature_size)
    samples, inside = sample_frustum(grids, cam2world, intrinsics, *size)
    return samples.flatten(2), inside


def _each_cell(model: NVBModel, grid: Tensor) -> Tensor:
    """Grids (1, g³, z, y, x) like `grid` (C, z, y, x), one for each cell to correct, with that cell alone.

    Sampled, they are a matrix, whose product with a correction has a gradient on every device, and the same each time.
    """
    cells = (model.view.volume.grid_size,) * 3
    alone = torch.eye(math.prod(cells), device=grid.device).unflatten(1, cells)[None]
    return resampled(alone, grid.shape[-1])


def normalised_features(features: Tensor) -> Tensor:
    """Features (B, C, h, w) as tokens (B, h·w, C), each of mean 0 and deviation 1, float32."""
    tokens = rearrange(features, "b c h w -> b (h w) c").float()
    return F.layer_norm(tokens, tokens.shape[-1:])
