"""Latents -> pictures."""

from __future__ import annotations

from typing import Any

import comfy.model_management as memory
from comfy.utils import ProgressBar
from comfy_api.latest import io
from torch import Tensor

from ..nvb_core.errors import ConfigError
from ..nvb_core.model import NVBModel
from ..nvb_core.sampling import decode_latents
from ..nvb_core.watermark import add_watermark
from .images import to_comfy
from .networks import decoding_bytes, decoding_chunk, ready
from .sockets import CATEGORY
from .vae import NVBVAE


class NVBDecode(io.ComfyNode):
    """Decodes latents and marks the pictures as AI-generated."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBDecode",
            display_name="Decode Views",
            category=CATEGORY,
            description=(
                'Decodes the sampler\'s latents, in chunks that fit in memory, and puts a small "AI" mark into the '
                "corner of each picture."
            ),
            inputs=[
                io.Vae.Input("vae", tooltip="From Load NVB-Face Model."),
                io.Latent.Input("samples", tooltip="From the DDIM Sampler."),
                io.Boolean.Input(
                    "watermark",
                    default=True,
                    tooltip='Put a small "AI" mark into the bottom right corner.',
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    tooltip="Opacity of the mark.",
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="The views, in the order of the latents.")
            ],
        )

    @classmethod
    def execute(cls, vae: Any, samples: dict[str, Any], watermark: bool, strength: float) -> io.NodeOutput:
        if not isinstance(vae, NVBVAE):
            raise ConfigError("this VAE is not NVB-Face's; connect the vae of Load NVB-Face Model")
        latents = samples["samples"]
        _check(latents, vae.model)
        views_at_once = decoding_chunk(vae.model, vae.patcher.load_device)
        ready(vae.patcher, memory_bytes=decoding_bytes(vae.model, min(views_at_once, len(latents))))
        bar = ProgressBar(len(latents))

        def on_chunk(done: int) -> None:
            memory.throw_exception_if_processing_interrupted()
            bar.update_absolute(done)

        images = decode_latents(
            vae.model, latents, views_at_once, raw=True, device=memory.intermediate_device(), on_chunk=on_chunk
        )
        bar.update_absolute(len(latents))
        return io.NodeOutput(to_comfy(add_watermark(images, strength) if watermark else images))


def _check(latents: Tensor, model: NVBModel) -> None:
    """Raise ConfigError unless the latents can be this model's."""
    config = model.config
    channels, size = config.vae.latent_channels, config.latent_size
    if latents.ndim != 4 or len(latents) == 0 or tuple(latents.shape[1:]) != (channels, size, size):
        raise ConfigError(
            f"latent has shape {tuple(latents.shape)}, model {config.name} needs (views, {channels}, {size}, {size}); "
            "connect the latent of the NVB-Face DDIM sampler"
        )
    if not latents.isfinite().all():
        raise ConfigError("latent holds NaN or infinite values; try dtype fp32 in Load NVB-Face Model")
