"""DDIM over all views of a run, a chunk of views at a time: conditioning per timestep -> latents.

The loop over timesteps is outside the loop over chunks, so that what depends on the face alone (encoder, 3D grid) is
computed once per timestep for all its views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigError, NVBError, SamplingCancelled
from .memory import is_out_of_memory
from .model import NVBModel

CPU_VIEWS_PER_CHUNK = 8
CUDA_VIEWS_PER_CHUNK = 64
MAX_ETA = 1 - 1e-6
"""At zero signal and eta 1, diffusers takes the root of a number less itself, which rounding can leave below zero."""

ContextFunction = Callable[[int, int, int], Tensor]
"""(timestep, first view, end view) -> U-Net context (views, tokens, C)."""


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample."""

    steps: int = 50
    """DDIM steps, 1–1000."""
    eta: float = 0.0
    """0 is deterministic DDIM, 1 adds as much noise as DDPM."""
    seed: int = 0
    shared_noise: bool = True
    """All views of a face start from the same noise, which steadies them."""
    views_per_chunk: int = 0
    """Views that go through the U-Net at once; 0 is automatic. A chunk that doesn't fit in memory is halved."""
    fit_steps: int = 0
    """Gradient steps that fit a face's 3D grid to its photo first (see `fit`), 0–1000; 0 takes the grid as it is."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise ConfigError(f"steps is {self.steps}, must be in 1–1000")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta is {self.eta}, must be in 0–1")
        if not 0 <= self.fit_steps <= 1000:
            raise ConfigError(f"fit_steps is {self.fit_steps}, must be in 0–1000")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}, must be in 0–2^63-1")
        if self.views_per_chunk < 0:
            raise ConfigError(f"views_per_chunk is {self.views_per_chunk}, must be 0 (automatic) or more")


@dataclass(frozen=True)
class StepInfo:
    """Where sampling stands."""

    step: int
    """Steps done, from 1."""
    total: int
    preview: Tensor
    """(views, 3, h, w) in [-1, 1]: the predicted clean latents as small pictures, on the CPU."""


class ViewNoise:
    """Noise per view that depends on seed, face and view alone, never on the chunk size or the device."""

    def __init__(self, shape: tuple[int, ...], views_per_face: int, options: SamplingOptions) -> None:
        views, *self.latent_shape = shape
        seeds = [
            (options.seed, view // views_per_face, 0 if options.shared_noise else view % views_per_face)
            for view in range(views)
        ]
        self.keys = seeds
        self.generators = {
            key: torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
            for key in dict.fromkeys(seeds)
        }

    def draw(self) -> Tensor:
        """The next noise of every view, (views, Z, h, w) float32 on the CPU."""
        drawn = {key: torch.randn(self.latent_shape, generator=g) for key, g in self.generators.items()}
        return torch.stack([drawn[key] for key in self.keys])


class Chunks:
    """Calls a function over ranges of views; a range that doesn't fit in memory is halved, for good."""

    def __init__(self, views: int, size: int, on_halved: Callable[[int], None] | None = None) -> None:
        self.views, self.size, self.on_halved = views, max(1, min(size, views)), on_halved

    def map(self, function: Callable[[int, int], Tensor]) -> Iterator[Tensor]:
        """function(first, end) for consecutive ranges that cover all views."""
        start = 0
        while start < self.views:
            end = min(start + self.size, self.views)
            result = self._try(function, start, end)
            if result is None:
                self._halve()
                continue
            yield result
            start = end

    def _try(self, function: Callable[[int, int], Tensor], start: int, end: int) -> Tensor | None:
        """The result, or None when memory ran out; a function of its own so that the failed frames are freed."""
        try:
            return function(start, end)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self) -> None:
        if self.size == 1:
            raise NVBError("out of memory with one picture at a time; use a smaller dtype or another device")
        self.size = (self.size + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.on_halved:
            self.on_halved(self.size)


def automatic_chunk(device: torch.device) -> int:
    """Views per chunk to start from."""
    return CPU_VIEWS_PER_CHUNK if device.type == "cpu" else CUDA_VIEWS_PER_CHUNK


@torch.no_grad()
def sample_latents(
    model: NVBModel,
    context: ContextFunction,
    faces: int,
    views_per_face: int,
    options: SamplingOptions,
    on_step: Callable[[StepInfo], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
    on_halved: Callable[[int], None] | None = None,
) -> Tensor:
    """DDIM from noise to normalised latents (faces·views, Z, h, w) float32, face-major.

    `should_cancel` is asked before every U-Net call; SamplingCancelled leaves nothing allocated but the model and what
    `context` caches. `on_halved` hears the new chunk size when a chunk didn't fit in memory.
    """
    from .denoiser import sampling_scheduler

    parameter = next(model.unet.parameters())
    device, dtype = parameter.device, parameter.dtype
    views, size = faces * views_per_face, model.config.latent_size
    noise = ViewNoise((views, model.config.vae.latent_channels, size, size), views_per_face, options)
    scheduler = sampling_scheduler(model.config.schedule, options.steps)
    latents = noise.draw().to(device)
    chunks = Chunks(views, options.views_per_chunk or automatic_chunk(device), on_halved)

    for step, (t, following) in enumerate(pairwise([*scheduler.timesteps.tolist(), -1]), start=1):

        def predict(start: int, end: int, t: int = t, latents: Tensor = latents) -> Tensor:
            if should_cancel and should_cancel():
                raise SamplingCancelled("sampling was cancelled")
            timesteps = torch.full((end - start,), t, device=device)
            return model.unet(latents[start:end].to(dtype), timesteps, context(t, start, end).to(dtype)).sample.float()

        prediction = torch.cat(list(chunks.map(predict)))
        # diffusers steps by 1000 // steps, which the timesteps of a count that doesn't divide 1000 aren't apart
        scheduler.num_inference_steps = Fraction(scheduler.config.num_train_timesteps, t - following)
        stepped: Any = scheduler.step(
            prediction,
            t,
            latents,
            eta=min(options.eta, MAX_ETA),
            variance_noise=noise.draw().to(device) if options.eta > 0 else None,
        )
        latents = stepped.prev_sample
        if on_step:
            preview = model.vae.preview(stepped.pred_original_sample).cpu()
            on_step(StepInfo(step, options.steps, preview))
    return latents


@torch.no_grad()
def decode_latents(
    model: NVBModel,
    latents: Tensor,
    views_per_chunk: int = 0,
    raw: bool = False,
    device: torch.device | str | None = None,
    on_chunk: Callable[[int], None] | None = None,
) -> Tensor:
    """Latents (M, Z, h, w), normalised or raw -> images (M, 3, H, W) float32 in [-1, 1], in chunks that fit memory.

    Each chunk goes to `device`, by default where it is decoded. Before each, `on_chunk` hears how many images are done;
    what it raises ends the work.
    """
    parameter = next(model.vae.parameters())
    chunks = Chunks(len(latents), views_per_chunk or automatic_chunk(parameter.device))
    network = model.vae.decode_raw if raw else model.vae.decode

    def decode(start: int, end: int) -> Tensor:
        if on_chunk:
            on_chunk(start)
        images = network(latents[start:end].to(parameter.device, parameter.dtype))
        return images.float().clamp(-1, 1).to(device or parameter.device)

    return torch.cat(list(chunks.map(decode)))
