"""Step 3, the denoiser's turn (not in the paper): U-Net and context learn to draw views from what the 3D grid says.

Until then the U-Net has only seen features of photos and takes the grid's, which know less, at their word.

accelerate launch -m training.step3 --init runs/step2/model.safetensors --data data/heads --out runs/step3
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvb_core.frustum import matrices_from_vector
from nvb_core.model import NVBModel

from .batches import ViewBatch
from .command import run_command
from .launch import process_index
from .loop import Trainer
from .options import Step3Options
from .step1 import DenoisingTarget, draw_timesteps, train_only_denoiser
from .step2 import ViewStage, grid_camera


class Step3Network(nn.Module):
    """Noise-prediction loss of views from the grid's features, and of some from their own pictures'."""

    def __init__(self, model: NVBModel, options: Step3Options) -> None:
        super().__init__()
        self.model, self.options = model, options
        self.target = DenoisingTarget(model)
        train_only_denoiser(model)

    def forward(self, batch: ViewBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of B faces × N target views at one random timestep per face."""
        model, photos = self.model, self.options.photo_views
        timesteps = draw_timesteps(model, len(batch.lq), generator)
        with torch.no_grad():
            features = self._grid_features(batch, timesteps, generator)
            if photos:
                features = torch.cat([self._photo_features(batch, timesteps), features], dim=1)
            if batch.latents.numel():
                latents = batch.latents.flatten(0, 1).float()
            else:
                latents = model.vae.encode(batch.targets.flatten(0, 1)).float()
        views = batch.targets.shape[1]
        each = timesteps.repeat_interleave(views)
        noisy, target = self.target(latents, each, generator)
        predicted = model.unet(noisy, each, model.context(features.flatten(0, 1))).sample.float()
        error = F.mse_loss(predicted, target, reduction="none").unflatten(0, (-1, views))
        losses = {"loss": error.mean(), "views": error[:, photos:].mean()}
        return {**losses, "photos": error[:, :photos].mean()} if photos else losses

    def _photo_features(self, batch: ViewBatch, timesteps: Tensor) -> Tensor:
        """Of the first targets' own degraded pictures, (B, photo_views, C, h, w)."""
        count = self.options.photo_views
        pictures = batch.degraded_targets[:, :count].flatten(0, 1)
        return self.model.encoder(pictures, timesteps.repeat_interleave(count)).unflatten(0, (-1, count))

    def _grid_features(self, batch: ViewBatch, timesteps: Tensor, generator: torch.Generator) -> Tensor:
        """The grid's features of the other targets, (B, N - photo_views, C, h, w)."""
        view = self.model.view
        features = self.model.encoder(batch.lq, timesteps)
        predicted = view.camera_predictor(features).float()
        probability = self.options.true_camera_probability
        grid = view.volume(features, grid_camera(batch.source_cameras, predicted, probability, generator), timesteps)
        cam2world, intrinsics = matrices_from_vector(batch.target_cameras[:, self.options.photo_views :])
        return view.view_features(grid, cam2world, intrinsics, timesteps).unflatten(0, (len(grid), -1))


class Step3Stage(ViewStage):
    """Training of the denoiser on views."""

    name = "step3"

    def __init__(self, options: Step3Options, rank: int) -> None:
        super().__init__(options, rank)
        self.network: Step3Network = Step3Network(self.model, options)


def train(options: Step3Options) -> int:
    """Run the stage; returns the number of steps done in all."""
    return Trainer(Step3Stage(options, process_index(options.timeout_minutes)), options).run()


if __name__ == "__main__":
    sys.exit(run_command(Step3Options, train, "training.step3"))
