"""Step 2, views: the ViewTransform learns to give the frozen encoder's features of views it hasn't seen.

accelerate launch -m training.step2 --init runs/step1/model.safetensors --data data/heads --out runs/step2
"""

from __future__ import annotations

import dataclasses
import functools
import sys

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from nvb_core.cameras import Cameras
from nvb_core.degradation import PRESETS
from nvb_core.frustum import matrices_from_vector
from nvb_core.model import NVBModel
from nvb_core.pipeline import SamplingOptions, render_cameras

from .batches import CropJitter, ViewBatch, batch_generator, sample_view_batch
from .command import run_command
from .data.load import load_faces
from .economy import economise
from .export import export_stage, start_model
from .latent_cache import LatentCache
from .launch import process_index
from .lift import add_lift
from .loop import Picture, Trainer
from .losses import feature_losses, psnr_db
from .options import Step2Options
from .state import Progress
from .step1 import PICTURE_STEPS, DenoisingTarget, draw_timesteps, masked_mse
from .tones import ToneJitter
from .validation import PICTURE_STREAM, VALIDATION_STREAM, validation_faces


class Step2Network(nn.Module):
    """Diffusion + feature + camera loss; only `model.view` requires gradients (paper section 3.3), and
    without a camera loss its predictor doesn't."""

    def __init__(self, model: NVBModel, options: Step2Options) -> None:
        super().__init__()
        self.model, self.options = model, options
        self.target = DenoisingTarget(model)
        model.requires_grad_(False)
        model.view.requires_grad_(True)
        model.view.camera_predictor.requires_grad_(options.camera_weight > 0)

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
        known = batch.has_camera if batch.has_camera.numel() else timesteps.ge(0)
        predicted = torch.where(known[:, None], predicted_camera.detach(), batch.source_cameras)  # a lent one is true
        camera = self._grid_camera(batch.source_cameras, predicted, generator)
        grid = model.view.volume(features, camera, timesteps)
        cam2world, intrinsics = matrices_from_vector(batch.target_cameras)
        view_features = model.view.view_features(grid, cam2world, intrinsics, timesteps)  # (B·N, C, h, w)

        feature, cosine = feature_losses(view_features, true_features)
        true_camera = torch.cat([batch.source_cameras, batch.target_cameras.flatten(0, 1)])
        camera_loss = masked_mse(
            torch.cat([predicted_camera, target_camera]),
            true_camera,
            torch.cat([known, known.repeat_interleave(views)]),
        )
        loss = options.feature_weight * (feature + options.cosine_weight * cosine) + options.camera_weight * camera_loss
        losses = {"feature": feature, "cosine": cosine, "camera": camera_loss}
        if options.denoised_views:
            losses["diffusion"] = self._diffusion_loss(batch, view_features, timesteps, generator)
            loss = loss + losses["diffusion"]
        return {"loss": loss, **losses}

    def _grid_camera(self, true: Tensor, predicted: Tensor, generator: torch.Generator) -> Tensor:
        """For each face the true or the predicted camera vector (B, 16), at random."""
        draw = torch.rand(len(true), 1, generator=generator, device=true.device)
        return torch.where(draw < self.options.true_camera_probability, true, predicted)

    def _diffusion_loss(
        self, batch: ViewBatch, view_features: Tensor, timesteps: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Noise-prediction loss of the first `denoised_views` targets (their order is random already)."""
        count, views = self.options.denoised_views, batch.targets.shape[1]
        if batch.latents.numel():
            latents = batch.latents[:, :count].flatten(0, 1).float()
        else:
            with torch.no_grad():
                latents = self.model.vae.encode(batch.targets[:, :count].flatten(0, 1)).float()
        timesteps = timesteps.repeat_interleave(count)
        noisy, target = self.target(latents, timesteps, generator)
        chosen = rearrange(view_features, "(b n) c h w -> b n c h w", n=views)[:, :count].flatten(0, 1)
        return F.mse_loss(self.model.unet(noisy, timesteps, self.model.context(chosen)).sample.float(), target)


class Step2Stage:
    """View training as the loop sees it."""

    def __init__(self, options: Step2Options, rank: int) -> None:
        self.options = options
        torch.manual_seed(options.seed)  # what starts at random must do so alike in all processes
        self.model = start_model(options.init, options.base)
        if options.lift_width:
            add_lift(self.model, options.lift_width)
        self.folder = load_faces(options, self.model.config.image_size, rank, lone=options.own_views)
        self.folder.require_views(options.views, of_all=not options.own_views)
        self.shown, self.validation_source = validation_faces(options, self.folder, rank, options.views)
        self.cache = self._latent_cache()
        economise(self.model, options)
        self.network = Step2Network(self.model, options)
        self.draw = functools.partial(
            sample_view_batch,
            ranges=PRESETS[options.degradation],
            tones=ToneJitter(options.tone_probability),
            target_jitter=CropJitter(probability=options.loose_targets),
            own_views=options.own_views,
        )

    def _latent_cache(self) -> LatentCache | None:
        config, directory = self.model.config, self.options.latent_cache
        if directory is None:
            return None
        shape = (config.vae.latent_channels, config.latent_size, config.latent_size)
        return LatentCache(directory, self.model.vae, self.folder, shape)

    def make_batch(self, index: int) -> ViewBatch:
        """One degraded photo and N views of each face."""
        rng = batch_generator(self.options.seed, index, 0)
        later = self.options.degrade_on == "device"
        batch = self.draw(self.folder, self.options.batch_size, self.options.views, rng, degrade_later=later)
        if self.cache is None:
            return batch
        return dataclasses.replace(batch, latents=self.cache(batch.target_images, batch.mirrored))

    def make_validation_batch(self, index: int) -> ViewBatch:
        """As for training, from draws that it doesn't make."""
        rng = batch_generator(self.options.seed, index, VALIDATION_STREAM)
        return self.draw(self.shown, self.options.batch_size, self.options.views, rng)

    def picture(self) -> Picture:
        """For three faces: photo, generated views; below, the true views."""
        views = min(4, int(self.shown.view_counts.max()) - 1)
        batch = self.draw(self.shown, 3, views, batch_generator(self.options.seed, 0, PICTURE_STREAM))
        device = next(self.model.view.parameters()).device
        rows, generated = [], []
        for lq, targets, cameras in zip(batch.lq, batch.targets, batch.target_cameras, strict=True):
            rendered = render_cameras(
                self.model, lq[None].to(device), [Cameras.from_vector(cameras)], SamplingOptions(steps=PICTURE_STEPS)
            )
            generated.append(rendered.cpu())
            rows += [[lq, *generated[-1]], [torch.ones_like(lq), *targets]]
        pixels = torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)
        return Picture(pixels, psnr_db(torch.cat(generated), batch.targets.flatten(0, 1)))

    def export(self, progress: Progress) -> None:
        """Write the model."""
        export_stage(self.model, "step2", progress, self.options)


def train(options: Step2Options) -> int:
    """Run the stage; returns the number of steps done in all."""
    return Trainer(Step2Stage(options, process_index(options.timeout_minutes)), options).run()


if __name__ == "__main__":
    sys.exit(run_command(Step2Options, train, "training.step2"))
