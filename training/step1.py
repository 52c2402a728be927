"""Step 1, restoration: encoder, context and U-Net learn to denoise the picture that the degraded photo shows.

accelerate launch -m training.step1 --init runs/vae/model.safetensors --data data/heads --out runs/step1
"""

from __future__ import annotations

import functools
import sys

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn import LayerNorm, Linear

from nvb_core.config import ModelConfig
from nvb_core.degradation import PRESETS
from nvb_core.denoiser import build_scheduler
from nvb_core.lora import is_trained
from nvb_core.model import NVBModel
from nvb_core.pipeline import SamplingOptions, restore

from .batches import RestorationBatch, batch_generator, sample_restoration_batch
from .command import run_command
from .data.load import load_faces
from .economy import economise
from .export import export_stage, start_model
from .launch import process_index
from .loop import Picture, Trainer
from .losses import psnr_db
from .options import Step1Options
from .state import Progress
from .tones import ToneJitter
from .validation import PICTURE_STREAM, VALIDATION_STREAM, validation_faces

PICTURE_STEPS = 10
"""DDIM steps of the pictures drawn in training: few, since on a CPU each takes as long as a training step."""


class DenoisingTarget:
    """Noisy latents and what the U-Net should say of them, for either prediction type."""

    def __init__(self, model: NVBModel) -> None:
        self.scheduler = build_scheduler(model.config.schedule)
        self.predicts_v = model.config.schedule.prediction_type == "v_prediction"

    def __call__(self, latents: Tensor, timesteps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """latents (B, Z, h, w), timesteps (B,) -> noisy latents and target, both (B, Z, h, w)."""
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        return noisy, self.scheduler.get_velocity(latents, noise, timesteps) if self.predicts_v else noise

    def clean(self, noisy: Tensor, predicted: Tensor, timesteps: Tensor) -> Tensor:
        """What a prediction for noisy latents (B, Z, h, w) says that the clean ones are."""
        signal = self.scheduler.alphas_cumprod.to(noisy.device)[timesteps].sqrt()[:, None, None, None]
        noise = (1 - signal.square()).sqrt()
        return signal * noisy - noise * predicted if self.predicts_v else (noisy - noise * predicted) / signal


def draw_timesteps(model: NVBModel, count: int, generator: torch.Generator, noisy_share: float = 0.0) -> Tensor:
    """Uniform training timesteps (count,), but for a share of them that is of the noisier half alone."""
    top, device = model.config.schedule.train_timesteps, generator.device
    timesteps = torch.randint(0, top, (count,), generator=generator, device=device)
    if not noisy_share:
        return timesteps
    raised = torch.rand(count, generator=generator, device=device) < noisy_share
    return torch.where(raised, (timesteps + top) // 2, timesteps)


class LatentHead(nn.Module):
    """LayerNormed features -> clean latents, linearly: what a cell of features says of the latents that it covers.

    It is trained along and then left behind. Through it the encoder learns what to say before the U-Net listens.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.cell = config.latent_size // config.feature_size  # latents on a side of a feature cell
        self.norm = LayerNorm(config.channels, elementwise_affine=False)
        self.linear = Linear(config.channels, config.vae.latent_channels * self.cell**2)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, Z, H/8, W/8)."""
        values = self.linear(self.norm(features.movedim(1, -1)))
        return rearrange(values, "b h w (z i j) -> b z (h i) (w j)", i=self.cell, j=self.cell)


class Step1Network(nn.Module):
    """Noise-prediction loss of the restoration model, and how well its features tell clean latents and camera."""

    def __init__(self, model: NVBModel, options: Step1Options) -> None:
        super().__init__()
        self.model, self.options = model, options
        self.target = DenoisingTarget(model)
        self.latent_head = LatentHead(model.config) if options.latent_weight else None
        model.requires_grad_(False)
        for module in (model.encoder, model.context, model.unet):
            module.requires_grad_(True)
        if model.config.base_model != "none":
            for name, parameter in model.unet.named_parameters():
                parameter.requires_grad_(is_trained(name))
        model.view.camera_predictor.requires_grad_(options.camera_weight > 0)

    def forward(self, batch: RestorationBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch at random timesteps."""
        model = self.model
        timesteps = draw_timesteps(model, len(batch.lq), generator, self.options.noisy_share)
        with torch.no_grad():
            latents = model.vae.encode(batch.target).float()
        noisy, target = self.target(latents, timesteps, generator)
        features = model.encoder(batch.lq, timesteps)
        prediction = model.unet(noisy, timesteps, model.context(features)).sample.float()
        losses = {"diffusion": F.mse_loss(prediction, target)}
        loss = losses["diffusion"]
        if self.latent_head is not None:
            losses["latent"] = F.mse_loss(self.latent_head(features).float(), latents)
            loss = loss + self.options.latent_weight * losses["latent"]
        if self.options.camera_weight:
            losses["camera"] = masked_mse(
                model.view.camera_predictor(features).float(), batch.cameras, batch.has_camera
            )
            loss = loss + self.options.camera_weight * losses["camera"]
        return {"loss": loss, **losses}


def masked_mse(predicted: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """MSE of rows (B, N) to which those that aren't known (B,) add nothing.

    It is of all rows, so that it doesn't depend on how a batch is parted among processes and micro-batches.
    """
    return F.mse_loss(predicted, torch.where(known[:, None], true, predicted.detach()))


class Step1Stage:
    """Restoration training as the loop sees it."""

    def __init__(self, options: Step1Options, rank: int) -> None:
        self.options = options
        torch.manual_seed(options.seed)  # what starts at random must do so alike in all processes
        self.model = start_model(options.init, options.base, options.prediction_type, options.encoder_init)
        self.folder = load_faces(options, self.model.config.image_size, rank)
        self.shown, self.validation_source = validation_faces(options, self.folder, rank)
        economise(self.model, options)
        self.network = Step1Network(self.model, options)
        tones = ToneJitter(options.tone_probability)
        self.draw = functools.partial(sample_restoration_batch, ranges=PRESETS[options.degradation], tones=tones)

    def make_batch(self, index: int) -> RestorationBatch:
        """Jittered crops, each degraded in its own way."""
        rng = batch_generator(self.options.seed, index, 0)
        later = self.options.degrade_on == "device"
        return self.draw(self.folder, self.options.batch_size, rng, degrade_later=later)

    def make_validation_batch(self, index: int) -> RestorationBatch:
        """As for training, from draws that it doesn't make."""
        rng = batch_generator(self.options.seed, index, VALIDATION_STREAM)
        return self.draw(self.shown, self.options.batch_size, rng)

    def picture(self) -> Picture:
        """Degraded, restored, true."""
        rng = batch_generator(self.options.seed, 0, PICTURE_STREAM)
        batch = self.draw(self.shown, 8, rng)
        lq = batch.lq.to(next(self.model.encoder.parameters()).device)
        restored = restore(self.model, lq, SamplingOptions(steps=PICTURE_STEPS)).cpu()
        rows = [batch.lq, restored, batch.target]
        pixels = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
        return Picture(pixels, psnr_db(restored, batch.target))

    def export(self, progress: Progress) -> None:
        """Write the model."""
        export_stage(self.model, "step1", progress, self.options)


def train(options: Step1Options) -> int:
    """Run the stage; returns the number of steps done in all."""
    return Trainer(Step1Stage(options, process_index(options.timeout_minutes)), options).run()


if __name__ == "__main__":
    sys.exit(run_command(Step1Options, train, "training.step1"))
