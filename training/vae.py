"""Stage 0: train the autoencoder of a preset that has none of its own (`mini`).

accelerate launch -m training.vae --preset mini --data data/heads --out runs/vae
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvb_core.autoencoder import Autoencoder
from nvb_core.config import PRESETS, ModelConfig
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel

from .batches import CropJitter, batch_generator, sample_crops
from .command import run_command
from .data.load import load_faces
from .export import export_stage, start_model
from .loop import Trainer, process_index
from .losses import gradient_l1
from .options import VAEOptions
from .state import Progress
from .widen import widen_latents

JITTER = CropJitter()


@dataclass(frozen=True)
class ImageBatch:
    """Clean pictures."""

    images: Tensor  # (B, 3, S, S) in [-1, 1]


class VAENetwork(nn.Module):
    """Reconstruction loss of an autoencoder whose latents get a little noise."""

    def __init__(self, vae: Autoencoder, options: VAEOptions) -> None:
        super().__init__()
        self.vae, self.options = vae, options
        vae.requires_grad_(True)
        if options.decoder_only:
            vae.kl.encoder.requires_grad_(False)
            vae.kl.quant_conv.requires_grad_(False)

    def forward(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """L1 + gradient L1 + square error + a bound on the latents; `psnr` in dB is logged."""
        images, options = batch.images, self.options
        raw = self.vae.encode_raw(images).float()
        deviation = raw.detach().std(dim=(0, 2, 3), keepdim=True)
        noise = torch.randn(raw.shape, generator=generator, device=raw.device)
        output = self.vae.decode_raw(raw + options.latent_noise * deviation * noise).float()
        l1, gradient, square = F.l1_loss(output, images), gradient_l1(output, images), F.mse_loss(output, images)
        loss = l1 + options.gradient_weight * gradient + options.square_weight * square
        loss = loss + options.latent_weight * raw.square().mean()
        psnr = 10 * torch.log10(4 / square.detach())
        return {"loss": loss, "l1": l1, "gradient": gradient, "psnr": psnr}


class VAEStage:
    """Autoencoder training as the loop sees it."""

    def __init__(self, options: VAEOptions, rank: int) -> None:
        torch.manual_seed(options.seed)
        self.model = start_model(options.init) if options.init else NVBModel(complete_preset(options.preset))
        if options.latent_channels:
            self.model = widen_latents(self.model, options.latent_channels)
        self.options, self.rank = options, rank
        self.folder = load_faces(options, self.model.config.image_size, rank)
        self.network = VAENetwork(self.model.vae, options)

    def make_batch(self, index: int) -> ImageBatch:
        """Jittered clean crops."""
        rng = batch_generator(self.options.seed, index, self.rank)
        return ImageBatch(sample_crops(self.folder, self.options.batch_size, rng, JITTER)[0])

    def picture(self) -> Tensor:
        """Pictures above their reconstructions."""
        images = self._sample(8)
        rows = [images, self.model.vae.decode_raw(self.model.vae.encode_raw(images)).float().clamp(-1, 1)]
        return torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)

    def export(self, progress: Progress) -> None:
        """Measure the latents' statistics (unless they are kept) and write the model."""
        if not self.options.decoder_only:
            measure_latents(self.model.vae, self._sample(64))
        export_stage(self.model, "vae", progress, self.options)

    def _sample(self, count: int) -> Tensor:
        rng = batch_generator(self.options.seed, 0, 1_000_000)
        return sample_crops(self.folder, count, rng, JITTER)[0].to(next(self.model.vae.parameters()).device)


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
    return Trainer(VAEStage(options, process_index()), options).run()


if __name__ == "__main__":
    sys.exit(run_command(VAEOptions, train, "training.vae"))
