"""View features -> latents, by DDIM."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import cast

import comfy.model_management as memory
from comfy.cli_args import args
from comfy.utils import ProgressBar
from comfy_api.latest import io
from torch import Tensor

from ..nvb_core.errors import ConfigError
from ..nvb_core.model import NVBModel
from ..nvb_core.sampling import SamplingOptions, StepInfo, sample_latents
from .networks import encoding_bytes, ready, require_same_features, sampling_bytes, sampling_chunk
from .preview import tiled
from .sockets import CATEGORY, FACE_MAJOR, DenoiserPart, DenoiserSocket, DifferencePart, ViewFeaturesSocket, ViewsOfGrid
from .widgets import seed_input, steps_input

log = logging.getLogger(__name__)


class NVBDDIMSampler(io.ComfyNode):
    """Denoises all views of a run together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBDDIMSampler",
            display_name="DDIM Sampler (NVB-Face)",
            category=CATEGORY,
            description=(
                "Denoises the views by DDIM. What depends on the face alone is computed once per step for all its "
                "views, and kept for the next run. Views run in chunks; a chunk that doesn't fit in memory is halved. "
                f"{FACE_MAJOR}"
            ),
            inputs=[
                DenoiserSocket.Input("denoiser", tooltip="From Load NVB-Face Model."),
                ViewFeaturesSocket.Input("view_features", tooltip="From Sample Views."),
                seed_input("Start of the random numbers; the same seed gives the same views."),
                steps_input(),
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Fresh noise per step: 0 is deterministic DDIM, 1 as much as DDPM.",
                ),
                io.Boolean.Input(
                    "shared_noise",
                    default=True,
                    tooltip="All views of a face start from the same noise, which steadies them.",
                ),
                io.Int.Input(
                    "views_per_chunk",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Views computed at once; 0 chooses. Smaller needs less memory; the views stay the same.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="For Decode Views, or ComfyUI's own VAE Decode with this VAE.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        denoiser: DenoiserPart | DifferencePart,
        view_features: ViewsOfGrid,
        seed: int,
        steps: int,
        eta: float,
        shared_noise: bool,
        views_per_chunk: int,
    ) -> io.NodeOutput:
        if isinstance(denoiser, DifferencePart):
            raise ConfigError(
                f"{denoiser.model.config.name} was trained on top of Stable Diffusion; choose that in Load NVB-Face "
                "Model as base, or use Apply to Model and ComfyUI's KSampler"
            )
        steps = steps or denoiser.model.config.sampling_steps
        options = SamplingOptions(steps, eta, seed, shared_noise, views_per_chunk)
        latents = denoiser.model.vae.raw(_sample(denoiser, view_features, options))
        return io.NodeOutput({"samples": latents.to(memory.intermediate_device())})


def _sample(denoiser: DenoiserPart, views: ViewsOfGrid, options: SamplingOptions) -> Tensor:
    """Latents (B·N, Z, h, w)."""
    grid, features, model = views.grid, views.values, denoiser.model
    require_same_features(grid.view.model.config, model.config, "view features and denoiser")
    views_at_once = options.views_per_chunk or sampling_chunk(model, denoiser.patcher.load_device)
    room = encoding_bytes(grid.features.encoder.model, features.faces)
    room += sampling_bytes(model, min(views_at_once, features.faces * features.views_per_face))
    ready(grid.features.encoder.patcher, grid.view.patcher, denoiser.patcher, memory_bytes=room)
    bar = ProgressBar(options.steps)
    dtype = next(model.context.parameters()).dtype  # the view model may have another

    def context(timestep: int, start: int, end: int) -> Tensor:
        return model.context(features.at(timestep, start, end).to(dtype))

    def interrupted() -> bool:
        memory.throw_exception_if_processing_interrupted()  # ComfyUI's own exception says so, not a result
        return False

    def on_step(info: StepInfo) -> None:
        bar.update_absolute(info.step, info.total, ("JPEG", tiled(info.preview), args.preview_size))

    def on_halved(size: int) -> None:
        log.warning("NVB-Face: out of memory; going on with %d views at a time", size)

    return sample_latents(
        cast(NVBModel, model),  # which it is in all that sampling uses
        context,
        features.faces,
        features.views_per_face,
        replace(options, views_per_chunk=views_at_once),
        on_step,
        interrupted,
        on_halved,
    )
