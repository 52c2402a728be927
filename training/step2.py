"""Step 2, views: the ViewTransform learns to give the frozen encoder's features of views it hasn't seen.

accelerate launch -m training.step2 --init runs/step1/model.safetensors --data data/heads --out runs/step2
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from nvb_core.cameras import Cameras
from nvb_core.frustum import matrices_from_vector
from nvb_core.model import NVBModel
from nvb_core.pipeline import SamplingOptions, render_cameras

from .batches import ViewBatch, batch_generator, sample_view_batch
from .command import run_command
from .data.load import load_faces
from .export import export_stage, start_model
from .loop import Trainer, process_index
from .losses import feature_losses
from .options import Step2Options
from .state import Progress
from .step1 import PICTURE_STEPS, DenoisingTarget, draw_timesteps


class Step2Network(nn.Module):
    """Diffusion + feature + camera loss; only `model.view` requires gradients (paper section 3.3)."""

    def __init__(self, model: NVBModel, options: Step2Options) -> None:
        super().__init__()
        self.model, self.options = model, options
        self.target = DenoisingTarget(model)
        model.requires_grad_(False)
        model.view.requires_grad_(True)

    def forward(self, batch: ViewBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of B faces × N target views at one random timestep per face."""
        model, options = self.model, self.options
        views = batch.targets.shape[1]
        timesteps = draw_timesteps(model, len(batch.lq), generator)
        with torch.no_grad():
            features = model.encoder(batch.lq, timesteps)
            true_features = model.encoder(batch.degraded_targets.flatten(0, 1), timesteps.repeat_interleave(views))
        predicted_camera = model.view.camera_predictor(features).float()
        target_camera = model.view.camera_predictor(true_features).float()  # more of the same task, nearly for free
        camera = self._grid_camera(batch.source_cameras, predicted_camera.detach(), generator)
        grid = model.view.volume(features, camera, timesteps)
        cam2world, intrinsics = matrices_from_vector(batch.target_cameras)
        view_features = model.view.view_features(grid, cam2world, intrinsics, timesteps)  # (B·N, C, h, w)

        feature, cosine = feature_losses(view_features, true_features)
        true_camera = torch.cat([batch.source_cameras, batch.target_cameras.flatten(0, 1)])
        camera_loss = F.mse_loss(torch.cat([predicted_camera, target_camera]), true_camera)
        diffusion = self._diffusion_loss(batch.targets, view_features, timesteps, generator)
        weighted_feature = options.feature_weight * (feature + options.cosine_weight * cosine)
        loss = diffusion + weighted_feature + options.camera_weight * camera_loss
        return {"loss": loss, "diffusion": diffusion, "feature": feature, "cosine": cosine, "camera": camera_loss}

    def _grid_camera(self, true: Tensor, predicted: Tensor, generator: torch.Generator) -> Tensor:
        """For each face the true or the predicted camera vector (B, 16), at random."""
        draw = torch.rand(len(true), 1, generator=generator, device=true.device)
        return torch.where(draw < self.options.true_camera_probability, true, predicted)

    def _diffusion_loss(
        self, targets: Tensor, view_features: Tensor, timesteps: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Noise-prediction loss of the first `denoised_views` targets (their order is random already)."""
        count, views = self.options.denoised_views, targets.shape[1]
        with torch.no_grad():
            latents = self.model.vae.encode(targets[:, :count].flatten(0, 1)).float()
        timesteps = timesteps.repeat_interleave(count)
        noisy, target = self.target(latents, timesteps, generator)
        chosen = rearrange(view_features, "(b n) c h w -> b n c h w", n=views)[:, :count].flatten(0, 1)
        return F.mse_loss(self.model.unet(noisy, timesteps, self.model.context(chosen)).sample.float(), target)


class Step2Stage:
    """View training as the loop sees it."""

    def __init__(self, options: Step2Options, rank: int) -> None:
        self.options, self.rank = options, rank
        self.model = start_model(options.init, options.base)
        self.folder = load_faces(options, self.model.config.image_size, rank)
        self.folder.require_views(options.views)
        self.network = Step2Network(self.model, options)

    def make_batch(self, index: int) -> ViewBatch:
        """One degraded photo and N views of each face."""
        rng = batch_generator(self.options.seed, index, self.rank)
        return sample_view_batch(self.folder, self.options.batch_size, self.options.views, rng)

    def picture(self) -> Tensor:
        """For three faces: photo, generated views; below, the true views."""
        views = min(4, int(self.folder.view_counts.max()) - 1)
        batch = sample_view_batch(self.folder, 3, views, batch_generator(self.options.seed, 0, 1_000_000))
        device = next(self.model.view.parameters()).device
        rows = []
        for lq, targets, cameras in zip(batch.lq, batch.targets, batch.target_cameras, strict=True):
            rendered = render_cameras(
                self.model, lq[None].to(device), [Cameras.from_vector(cameras)], SamplingOptions(steps=PICTURE_STEPS)
            )
            rows += [[lq, *rendered.cpu()], [torch.ones_like(lq), *targets]]
        return torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)

    def export(self, progress: Progress) -> None:
        """Write the model."""
        export_stage(self.model, "step2", progress, self.options)


def train(options: Step2Options) -> int:
    """Run the stage; returns the number of steps done in all."""
    return Trainer(Step2Stage(options, process_index()), options).run()


if __name__ == "__main__":
    sys.exit(run_command(Step2Options, train, "training.step2"))
