"""Stage 0: train the autoencoder of a preset that has none of its own (`mini`); and last, sharpen its decoder.

accelerate launch -m training.vae --preset mini --data data/heads --out runs/vae
accelerate launch -m training.vae --init runs/step2/model.safetensors --data data/heads --out runs/decoder \
    --decoder-only --adversarial-weight 1 --denoised-share 0.5
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
from nvb_core.config import PRESETS, ModelConfig
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel

from .batches import CropJitter, RestorationBatch, batch_generator, sample_crops, sample_restoration_batch
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


class VAENetwork(nn.Module):
    """Reconstruction loss of an autoencoder whose latents get a little noise; on demand a discriminator's as well.

    Of a batch with degraded copies the first `denoised_share` are decoded from what the model's denoiser makes of them.
    """

    def __init__(self, model: NVBModel, options: VAEOptions) -> None:
        super().__init__()
        self.vae, self.model, self.options = model.vae, model.requires_grad_(False), options
        self.vae.requires_grad_(True)
        self.discriminator = PatchDiscriminator() if options.adversarial_weight else None
        if options.decoder_only:
            self.vae.kl.encoder.requires_grad_(False)
            self.vae.kl.quant_conv.requires_grad_(False)

    def forward(self, batch: ImageBatch | RestorationBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """L1 + gradient L1 + square error + a bound on the latents; `psnr` in dB is logged.

        Where gradients are taken, with a discriminator its own loss and the adversarial one are added.
        """
        options = self.options
        images = batch.target if isinstance(batch, RestorationBatch) else batch.images
        raw = self.vae.encode_raw(images).float()
        deviation = raw.detach().std(dim=(0, 2, 3), keepdim=True)
        bound = options.latent_weight * raw.square().mean()
        if isinstance(batch, RestorationBatch):
            count = math.ceil(options.denoised_share * len(images))
            raw = torch.cat([denoised(self.model, batch.lq[:count], raw[:count], generator), raw[count:]])
        noise = torch.randn(raw.shape, generator=generator, device=raw.device)
        output = self.vae.decode_raw(raw + options.latent_noise * deviation * noise).float()
        l1, gradient, square = F.l1_loss(output, images), gradient_l1(output, images), F.mse_loss(output, images)
        loss = l1 + options.gradient_weight * gradient + options.square_weight * square
        losses = {"l1": l1, "gradient": gradient, "psnr": 10 * torch.log10(4 / square.detach())}
        if self.discriminator is not None and torch.is_grad_enabled():
            fooling = adversarial_loss(self.discriminator, output)
            hinge, slope = discriminator_losses(self.discriminator, images, output, generator)
            share = options.adversarial_weight * balance(loss, fooling, output) * skill(hinge)
            loss = loss + share * fooling + hinge + slope
            losses |= {"adversarial": fooling, "hinge": hinge, "slope": slope}
        return {"loss": loss + bound, **losses}


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
        if options.denoised_share and "step1" not in self.model.metadata["training"]:
            raise ConfigError(f"{options.init}: its denoiser isn't trained (no step 1); leave --denoised-share out")
        if options.latent_channels:
            self.model = widen_latents(self.model, options.latent_channels)
        self.options, self.tones = options, ToneJitter(options.tone_probability)
        self.folder = load_faces(options, self.model.config.image_size, rank)
        self.shown, self.validation_source = validation_faces(options, self.folder, rank)
        economise(self.model, options)
        self.network = VAENetwork(self.model, options)

    def make_batch(self, index: int) -> ImageBatch | RestorationBatch:
        """Jittered clean crops, with degraded copies if the decoder learns from denoised latents."""
        return self._draw(self.folder, batch_generator(self.options.seed, index, 0))

    def make_validation_batch(self, index: int) -> ImageBatch | RestorationBatch:
        """As for training, from draws that it doesn't make."""
        return self._draw(self.shown, batch_generator(self.options.seed, index, VALIDATION_STREAM))

    def _draw(self, faces: FaceFolder, rng: np.random.Generator) -> ImageBatch | RestorationBatch:
        batch_size, later = self.options.batch_size, self.options.degrade_on == "device"
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
