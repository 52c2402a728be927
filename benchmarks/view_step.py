"""How long a view takes per denoising step, in float32 and in bf16, on one core or on a GPU.

python -m benchmarks.view_step
python -m benchmarks.view_step --device cuda --preset sd21    # of random weights
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from nvb_core.cameras import Cameras
from nvb_core.checkpoint import DEFAULT_WEIGHTS, load_model
from nvb_core.config import PRESETS
from nvb_core.model import NVBModel
from nvb_core.pipeline import ViewFeatures, build_grid, encode_faces, predict_source

TIMESTEPS = (999, 949, 899, 849)


@dataclass(frozen=True)
class Options:
    """What to time."""

    weights: Path = DEFAULT_WEIGHTS
    """Model."""
    preset: Literal["mini", "sd21", "sd15"] | None = None
    """Its size with random weights instead."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    views: int = 16
    """Views of one face, all at once."""
    threads: int = 1
    """Of torch."""


@torch.no_grad()
def seconds_per_view(options: Options, dtype: torch.dtype) -> float:
    """Least of some timesteps: encoder and grid once, frustum, aggregation and U-Net for every view."""
    device = torch.device(options.device)
    if options.preset:
        with device:
            model = NVBModel(PRESETS[options.preset]).to(dtype).eval()
    else:
        model = load_model(options.weights, device, dtype)
    size, latent = model.config.image_size, model.config.latent_size
    features = encode_faces(model, torch.rand(1, 3, size, size) * 2 - 1)
    cameras = Cameras.from_angles(torch.linspace(-45, 45, options.views).tolist(), 0.0)
    views = ViewFeatures(model, build_grid(model, features, predict_source(model, features)), [cameras])
    latents = torch.randn(options.views, model.config.vae.latent_channels, latent, latent).to(device, dtype)
    times = []
    for timestep in TIMESTEPS:
        wait_for(device)
        started = time.perf_counter()
        model.unet(latents, timestep, model.context(views.at(timestep, 0, options.views)))
        wait_for(device)
        times.append(time.perf_counter() - started)
    return min(times) / options.views


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(options: Options) -> None:
    """Print both and their ratio."""
    torch.set_num_threads(options.threads)
    full, half = (seconds_per_view(options, dtype) for dtype in (torch.float32, torch.bfloat16))
    where = f"{options.threads} threads"
    if options.device == "cuda":
        where = f"{torch.cuda.get_device_name()}, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most"
    print(f"float32 {full:.4f} s, bf16 {half:.4f} s a view and step, {where}; ratio {half / full:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
