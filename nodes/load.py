"""Checkpoint file -> the model's networks."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from .files import (
    BUILT_IN,
    NO_BASE,
    base_fingerprint,
    base_names,
    base_path,
    checkpoint_fingerprint,
    checkpoint_names,
    checkpoint_path,
    register_model_folder,
)
from .networks import DTYPES, Denoiser, NVBEncoder, NVBViewTransform, load_networks, managed
from .sockets import CATEGORY, DenoiserPart, DenoiserSocket, DifferencePart, Encoder, NetworkPart, ViewModel
from .vae import NVBVAE

register_model_folder()


class NVBLoader(io.ComfyNode):
    """Reads a checkpoint, again only if a file has changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBLoader",
            display_name="Load NVB-Face Model",
            category=CATEGORY,
            description=(
                "Loads a model: the small one that comes with the pack, or any .safetensors checkpoint in a model "
                "folder named nvb_face (models/nvb_face, or as extra_model_paths.yaml says). Nothing is downloaded. "
                "The networks go to the GPU when they are used and make room for others when needed."
            ),
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_names(),
                    default=BUILT_IN,
                    tooltip="The built-in model, or a .safetensors file from the nvb_face model folders.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *DTYPES],
                    default="auto",
                    tooltip="Number format of the networks. auto: fp32 on the CPU, bf16 or fp16 on a GPU that has it.",
                ),
                io.Combo.Input(
                    "base",
                    options=base_names(),
                    default=NO_BASE,
                    optional=True,
                    tooltip="For a checkpoint that was trained on top of Stable Diffusion: the very model, from "
                    "models/checkpoints. none: the checkpoint is complete, or is for Apply to Model.",
                ),
            ],
            outputs=[
                Encoder.Output("encoder", display_name="encoder", tooltip="Image encoder and camera predictor."),
                ViewModel.Output(
                    "view_model", display_name="view_model", tooltip="3D latent grid and depth aggregation."
                ),
                DenoiserSocket.Output("denoiser", display_name="denoiser", tooltip="The U-Net, for the DDIM sampler."),
                io.Vae.Output(
                    "vae", display_name="vae", tooltip="The autoencoder; ComfyUI's own VAE nodes take it too."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None, dtype: str | None, base: str | None = NO_BASE) -> Any:
        return (*checkpoint_fingerprint(checkpoint), *base_fingerprint(base))

    @classmethod
    def execute(cls, checkpoint: str, dtype: str, base: str = NO_BASE) -> io.NodeOutput:
        model, difference = load_networks(checkpoint_path(checkpoint), dtype, base_path(base))
        encoder, views = (
            NetworkPart(model, managed(NVBEncoder(model))),
            NetworkPart(model, managed(NVBViewTransform(model))),
        )
        if difference is not None:
            no_vae = ExecutionBlocker(
                f"{checkpoint} has no autoencoder of its own; choose its base in Load NVB-Face Model, or take the VAE "
                "from Load Checkpoint"
            )
            return io.NodeOutput(encoder, views, DifferencePart(difference, managed(difference.context)), no_vae)
        denoiser = Denoiser(model)
        return io.NodeOutput(encoder, views, DenoiserPart(denoiser, managed(denoiser)), NVBVAE(model))
