"""How long a view takes per denoising step, in float32 and in bf16, on one core.

python -m benchmarks.view_step
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from nvb_core.cameras import Cameras
from nvb_core.checkpoint import DEFAULT_WEIGHTS, load_model
from nvb_core.pipeline import ViewFeatures, build_grid, encode_faces, predict_source

TIMESTEPS = (999, 949, 899, 849)


@dataclass(frozen=True)
class Options:
    """What to time."""

    weights: Path = DEFAULT_WEIGHTS
    """Model."""
    views: int = 16
    """Views of one face, all at once."""
    threads: int = 1
    """Of torch."""


@torch.no_grad()
def seconds_per_view(options: Options, dtype: torch.dtype) -> float:
    """Least of some timesteps: encoder and grid once, frustum, aggregation and U-Net for every view."""
    model = load_model(options.weights, "cpu", dtype)
    size, latent = model.config.image_size, model.config.latent_size
    features = encode_faces(model, torch.rand(1, 3, size, size) * 2 - 1)
    cameras = Cameras.from_angles(torch.linspace(-45, 45, options.views).tolist(), 0.0)
    views = ViewFeatures(model, build_grid(model, features, predict_source(model, features)), [cameras])
    latents = torch.randn(options.views, model.config.vae.latent_channels, latent, latent).to(dtype)
    times = []
    for timestep in TIMESTEPS:
        started = time.perf_counter()
        model.unet(latents, timestep, model.context(views.at(timestep, 0, options.views)))
        times.append(time.perf_counter() - started)
    return min(times) / options.views


def main(options: Options) -> None:
    """Print both and their ratio."""
    torch.set_num_threads(options.threads)
    full, half = (seconds_per_view(options, dtype) for dtype in (torch.float32, torch.bfloat16))
    print(
        f"float32 {full:.4f} s, bf16 {half:.4f} s a view and step, {options.threads} threads; ratio {half / full:.2f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
