"""Stage 0: train the autoencoder of a preset that has none of its own (`mini`); and last, sharpen its decoder.

accelerate launch -m training.vae --preset mini --data data/heads --out runs/vae
accelerate launch -m training.vae --init runs/step2/model.safetensors --data data/heads --out runs/decoder \
    --decoder-only --adversarial-weight 1 --view-share 0.5 --denoised-share 0.25
"""

from __future__ import annotations

import math
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvb_core.autoencoder import Autoencoder
from nvb_core.cameras import Cameras
from nvb_core.config import PRESETS, ModelConfig
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel
from nvb_core.pipeline import ViewFeatures, build_grid, encode_faces, predict_source, sample_views
from nvb_core.sampling import SamplingOptions

from .batches import (
    CropJitter,
    RestorationBatch,
    ViewBatch,
    batch_generator,
    sample_crops,
    sample_restoration_batch,
    sample_view_batch,
)
from .command import run_command
from .data import FaceFolder
from .data.load import load_faces
from .discriminator import PatchDiscriminator, adversarial_loss, balance, discriminator_losses, skill
from .economy import economise
from .export import export_stage, start_model
from .launch import process_index
from .loop import Picture, Trainer
from .losses import gradient_l1, psnr_db
from .options import VAEOptions
from .state import Progress
from .step1 import DenoisingTarget, draw_timesteps
from .tones import ToneJitter
from .validation import PICTURE_STREAM, VALIDATION_STREAM, validation_faces
from .widen import widen_latents

JITTER = CropJitter()


@dataclass(frozen=True)
class ImageBatch:
    """Clean pictures."""

    images: Tensor  # (B, 3, S, S) in [-1, 1]


Batch = ImageBatch | RestorationBatch | ViewBatch


class VAENetwork(nn.Module):
    """Reconstruction loss of an autoencoder whose latents get a little noise; on demand a discriminator's as well.

    Where a batch has photos of the faces, the first `view_share` of its pictures are decoded from latents of views that
    the model draws, the next `denoised_share` from what its denoiser makes of degraded copies. The discriminator then
    judges these alone: what the picture's own latents give is to be like the picture.
    """

    def __init__(self, model: NVBModel, options: VAEOptions) -> None:
        super().__init__()
        self.vae, self.model, self.options = model.vae, model.requires_grad_(False), options
        self.vae.requires_grad_(True)
        self.discriminator = PatchDiscriminator() if options.adversarial_weight else None
        if options.decoder_only:
            self.vae.kl.encoder.requires_grad_(False)
            self.vae.kl.quant_conv.requires_grad_(False)

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """L1 + gradient L1 + square error + a bound on the latents; `psnr` in dB is logged.

        Where gradients are taken, with a discriminator its own loss and the adversarial one are added.
        """
        options, images = self.options, clean_pictures(batch)
        raw = self.vae.encode_raw(images).float()
        deviation = raw.detach().std(dim=(0, 2, 3), keepdim=True)
        bound = options.latent_weight * raw.square().mean()
        made = self._made_latents(batch, raw.detach(), generator)
        raw = torch.cat([made, raw[len(made) :]])
        noise = torch.randn(raw.shape, generator=generator, device=raw.device)
        output = self.vae.decode_raw(raw + options.latent_noise * deviation * noise).float()
        l1, gradient, square = F.l1_loss(output, images), gradient_l1(output, images), F.mse_loss(output, images)
        loss = l1 + options.gradient_weight * gradient + options.square_weight * square
        losses = {"l1": l1, "gradient": gradient, "psnr": 10 * torch.log10(4 / square.detach())}
        if self.discriminator is not None and torch.is_grad_enabled():
            judged = len(made) or len(output)
            fooling = adversarial_loss(self.discriminator, output[:judged])
            hinge, slope = discriminator_losses(self.discriminator, images, output[:judged], generator)
            share = options.adversarial_weight * balance(loss, fooling, output, judged) * skill(hinge)
            loss = loss + share * fooling + hinge + slope
            losses |= {"adversarial": fooling, "hinge": hinge, "slope": slope}
        return {"loss": loss + bound, **losses}

    def _made_latents(self, batch: Batch, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Raw latents (K, Z, h, w) that the model makes instead of the first K of the pictures' own."""
        if isinstance(batch, ImageBatch):
            return raw[:0]
        views = math.ceil(self.options.view_share * len(raw))
        end = min(len(raw), views + math.ceil(self.options.denoised_share * len(raw)))
        degraded = batch.degraded_targets[:, 0] if isinstance(batch, ViewBatch) else batch.lq
        parts = [denoised(self.model, degraded[views:end], raw[views:end], generator)] if end > views else []
        if isinstance(batch, ViewBatch):
            parts.insert(0, drawn(self.model, batch.lq[:views], batch.target_cameras[:views, 0], generator))
        return torch.cat(parts)


def clean_pictures(batch: Batch) -> Tensor:
    """(B, 3, S, S) in [-1, 1]; of each face's views the first."""
    if isinstance(batch, ViewBatch):
        return batch.targets[:, 0]
    return batch.target if isinstance(batch, RestorationBatch) else batch.images


@torch.no_grad()
def drawn(model: NVBModel, lq: Tensor, cameras: Tensor, generator: torch.Generator) -> Tensor:
    """Raw latents (B, Z, h, w) of one view of each photo lq (B, 3, S, S), from camera vectors (B, 16), in as many steps
    as the model takes by default; no grid is fitted, which takes a second a face."""
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    features = encode_faces(model, lq)
    grid = build_grid(model, features, predict_source(model, features))
    views = ViewFeatures(model, grid, [Cameras.from_vector(camera[None].cpu().double()) for camera in cameras])
    latents = sample_views(model, views, SamplingOptions(model.config.sampling_steps, seed=seed))
    return latents * model.vae.latent_std[:, None, None] + model.vae.latent_mean[:, None, None]


@torch.no_grad()
def denoised(model: NVBModel, lq: Tensor, raw: Tensor, generator: torch.Generator) -> Tensor:
    """Raw latents (B, Z, h, w) as the denoiser has them at a random timestep, of pictures degraded to lq."""
    vae, target = model.vae, DenoisingTarget(model)
    timesteps = draw_timesteps(model, len(lq), generator)
    mean, deviation = vae.latent_mean[:, None, None], vae.latent_std[:, None, None]
    noisy, _ = target((raw - mean) / deviation, timesteps, generator)
    predicted = model.unet(noisy, timesteps, model.context(model.encoder(lq, timesteps))).sample.float()
    return target.clean(noisy, predicted, timesteps) * deviation + mean


class VAEStage:
    """Autoencoder training as the loop sees it."""

    def __init__(self, options: VAEOptions, rank: int) -> None:
        torch.manual_seed(options.seed)
        self.model = start_model(options.init) if options.init else NVBModel(complete_preset(options.preset))
        for share, stage in (("denoised_share", "step1"), ("view_share", "step2")):
            if getattr(options, share) and stage not in self.model.metadata["training"]:
                raise ConfigError(f"{options.init}: {stage} hasn't trained it; leave --{share.replace('_', '-')} out")
        if options.latent_channels:
            self.model = widen_latents(self.model, options.latent_channels)
        self.options, self.tones = options, ToneJitter(options.tone_probability)
        self.folder = load_faces(options, self.model.config.image_size, rank)
        if options.view_share:
            self.folder.require_views(1)
        self.shown, self.validation_source = validation_faces(options, self.folder, rank, int(options.view_share > 0))
        economise(self.model, options)
        self.network = VAENetwork(self.model, options)

    def make_batch(self, index: int) -> Batch:
        """Jittered clean crops, with degraded copies if the decoder learns from denoised latents; if it learns from
        views, one view of each face and a degraded photo from elsewhere."""
        return self._draw(self.folder, batch_generator(self.options.seed, index, 0))

    def make_validation_batch(self, index: int) -> Batch:
        """As for training, from draws that it doesn't make."""
        return self._draw(self.shown, batch_generator(self.options.seed, index, VALIDATION_STREAM))

    def _draw(self, faces: FaceFolder, rng: np.random.Generator) -> Batch:
        batch_size, later = self.options.batch_size, self.options.degrade_on == "device"
        if self.options.view_share:
            return sample_view_batch(faces, batch_size, 1, rng, JITTER, degrade_later=later, tones=self.tones)
        if self.options.denoised_share:
            return sample_restoration_batch(faces, batch_size, rng, JITTER, degrade_later=later, tones=self.tones)
        crops = sample_crops(faces, batch_size, rng, JITTER)[0]
        return ImageBatch(self.tones(crops[:, None], rng)[:, 0])

    def picture(self) -> Picture:
        """Pictures above their reconstructions."""
        images = self._sample(self.shown, 8)
        output = self.model.vae.decode_raw(self.model.vae.encode_raw(images)).float().clamp(-1, 1)
        pixels = torch.cat([torch.cat(list(row), dim=-1) for row in (images, output)], dim=-2)
        return Picture(pixels, psnr_db(output, images))

    def export(self, progress: Progress) -> None:
        """Measure the latents' statistics (unless they are kept) and write the model."""
        if not self.options.decoder_only:
            measure_latents(self.model.vae, self._sample(self.folder, 64))
        with self._at_strength():
            export_stage(self.model, "decoder" if self.options.decoder_only else "vae", progress, self.options)

    @contextmanager
    def _at_strength(self) -> Generator[None]:
        """The autoencoder with its weights moved back towards those that it started from, unless it is to keep them."""
        if self.options.strength == 1:
            yield
            return
        vae = self.model.vae
        trained = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
        start = start_model(self.options.init).vae.state_dict()
        vae.load_state_dict(
            {n: torch.lerp(start[n].to(t.device), t, self.options.strength) for n, t in trained.items()}
        )
        try:
            yield
        finally:
            vae.load_state_dict(trained)

    def _sample(self, faces: FaceFolder, count: int) -> Tensor:
        rng = batch_generator(self.options.seed, 0, PICTURE_STREAM)
        return sample_crops(faces, count, rng, JITTER)[0].to(next(self.model.vae.parameters()).device)


def complete_preset(name: str) -> ModelConfig:
    """The configuration of a preset whose autoencoder is its own. Raises ConfigError."""
    names = [key for key, config in PRESETS.items() if config.base_model == "none"]
    if name not in names:
        raise ConfigError(f"preset {name!r} has no autoencoder of its own to train; choose {' or '.join(names)}")
    return PRESETS[name]


def measure_latents(vae: Autoencoder, images: Tensor) -> None:
    """Set mean and deviation per latent channel, and the least-squares map from latents to small pictures."""
    raw = torch.cat([vae.encode_raw(chunk).float() for chunk in images.split(8)])
    vae.latent_mean.copy_(raw.mean(dim=(0, 2, 3)))
    vae.latent_std.copy_(raw.std(dim=(0, 2, 3)))
    latents = (raw - vae.latent_mean[:, None, None]) / vae.latent_std[:, None, None]
    small = F.interpolate(images, size=latents.shape[-2:], mode="area").movedim(1, -1).flatten(0, 2)
    flat = latents.movedim(1, -1).flatten(0, 2)
    solution = torch.linalg.lstsq(torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1), small).solution
    vae.preview_weight.copy_(solution[:-1].T)
    vae.preview_bias.copy_(solution[-1])


def train(options: VAEOptions) -> int:
    """Run the stage; returns the number of steps done in all."""
    return Trainer(VAEStage(options, process_index(options.timeout_minutes)), options).run()


if __name__ == "__main__":
    sys.exit(run_command(VAEOptions, train, "training.vae"))
