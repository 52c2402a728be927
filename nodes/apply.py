"""A Stable Diffusion model of core's loader and view features -> model and conditioning for core's samplers."""

from __future__ import annotations

from typing import Any

import comfy.conds
import comfy.model_management as memory
import torch
from comfy_api.latest import io
from torch import Tensor

from ..nvb_core.errors import ConfigError
from .native import NEGATIVE, VIEW_KEY, ViewContext, patched_model
from .networks import require_same_features
from .sockets import CATEGORY, FACE_MAJOR, DenoiserPart, DenoiserSocket, DifferencePart, ViewFeaturesSocket, ViewsOfGrid


class NVBApplyToModel(io.ComfyNode):
    """Makes a Stable Diffusion model draw the views, with ComfyUI's own sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBApplyToModel",
            display_name="Apply to Model (NVB-Face)",
            category=CATEGORY,
            description=(
                "For checkpoints that were trained on top of Stable Diffusion: makes the very model, from Load "
                "Checkpoint, draw the views with ComfyUI's own KSampler, its samplers, schedulers and denoise; LoRAs "
                f"go before this node; use cfg 1. The latent batch has one latent for each view. {FACE_MAJOR}"
            ),
            inputs=[
                io.Model.Input("model", tooltip="From Load Checkpoint: the model that the checkpoint was trained on."),
                DenoiserSocket.Input("denoiser", tooltip="From Load NVB-Face Model, with base none."),
                ViewFeaturesSocket.Input("view_features", tooltip="From Sample Views."),
            ],
            outputs=[
                io.Model.Output("patched_model", display_name="patched_model", tooltip="For KSampler."),
                io.Conditioning.Output("positive", display_name="positive", tooltip="The views."),
                io.Conditioning.Output(
                    "negative",
                    display_name="negative",
                    tooltip="No features at all; only used with cfg above 1, which the model wasn't trained for.",
                ),
                io.Latent.Output(
                    "latent", display_name="latent", tooltip="Empty latents, one for each view, of the model's size."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, denoiser: DenoiserPart | DifferencePart, view_features: ViewsOfGrid) -> io.NodeOutput:
        if isinstance(denoiser, DenoiserPart):
            raise ConfigError(
                f"{denoiser.model.config.name} is a complete model, which only the DDIM Sampler of this pack runs; "
                "Apply to Model takes a checkpoint that was trained on top of Stable Diffusion, loaded with base none"
            )
        if isinstance(model.model_options.get("model_function_wrapper"), ViewContext):
            raise ConfigError("the model draws views already; connect the one of Load Checkpoint")
        config, features = denoiser.model.config, view_features.values
        require_same_features(view_features.grid.view.model.config, config, "view features and denoiser")
        context = ViewContext(model, denoiser, view_features)
        patched = patched_model(model, denoiser.model, context)
        views, cells = features.faces * features.views_per_face, config.latent_size
        latent = torch.zeros(views, 4, cells, cells, device=memory.intermediate_device())
        tokens = config.feature_size**2
        positive = _conditioning(torch.arange(views), tokens, config.channels)
        negative = _conditioning(torch.full((views,), NEGATIVE), tokens, config.channels)
        noise = [view // features.views_per_face for view in range(views)]  # a face's views share it
        return io.NodeOutput(patched, positive, negative, {"samples": latent, "batch_index": noise})


def _conditioning(views: Tensor, tokens: int, channels: int) -> list[Any]:
    """Conditioning that names a view for each latent; the tokens are made when the timestep is known."""
    named = comfy.conds.CONDRegular(views[:, None].float())
    return [[torch.zeros(1, tokens, channels), {"model_conds": {VIEW_KEY: named}}]]
