"""A checkpoint's networks behind ComfyUI's memory manager, in the parts that are needed at one time."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as memory
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..nvb_core.adapted import load_without_base
from ..nvb_core.autoencoder import Autoencoder
from ..nvb_core.checkpoint import load_model, read_metadata
from ..nvb_core.config import ModelConfig
from ..nvb_core.errors import ConfigError
from ..nvb_core.header import FINGERPRINT
from ..nvb_core.model import NVBModel
from ..nvb_core.pipeline import FACES_AT_ONCE
from ..nvb_core.sampling import automatic_chunk

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Of one view and number: ComfyUI's own figure for a Stable Diffusion U-Net, per latent cell. The depth aggregation over
# 12 planes needs about as much.
SAMPLING_BYTES_PER_CELL = 2 * 0.01 * 2**20
ENCODING_BYTES_PER_PIXEL = 1767  # of one face and number: ComfyUI's figure for an encoder of this kind
DECODING_BYTES_PER_PIXEL = 2178
WHOLE = 1e32  # bytes; what ComfyUI itself gives a network that is to be loaded as a whole
CHUNK_BYTES = 2 * 2**30  # what views computed at once may take on a GPU (chosen); a chunk that doesn't fit is halved

log = logging.getLogger(__name__)


class NVBEncoder(nn.ModuleList):
    """Image encoder and camera predictor."""

    def __init__(self, model: NVBModel) -> None:
        super().__init__([model.encoder, model.view.camera_predictor])


class NVBViewTransform(nn.ModuleList):
    """3D latent grid and depth aggregation."""

    def __init__(self, model: NVBModel) -> None:
        super().__init__([model.view.volume, model.view.aggregator])


class Preview(nn.Module):
    """What sampling needs of the autoencoder, which needn't be on its device: its previews and its latents' scale."""

    preview, raw = Autoencoder.preview, Autoencoder.raw

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.register_buffer("preview_weight", vae.preview_weight.clone())
        self.register_buffer("preview_bias", vae.preview_bias.clone())
        self.register_buffer("latent_mean", vae.latent_mean.clone())
        self.register_buffer("latent_std", vae.latent_std.clone())


class Denoiser(nn.Module):
    """What DDIM uses of a model, under the same names."""

    def __init__(self, model: NVBModel) -> None:
        super().__init__()
        self.config: ModelConfig = model.config
        self.context = model.context
        self.unet = model.unet
        self.vae = Preview(model.vae)


@dataclass(frozen=True, eq=False)
class UNetDifference:
    """What a checkpoint that was trained on top of Stable Diffusion says of its U-Net, and the context for it."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    """Adapters and attn2, by the names of an adapted U-Net."""
    fingerprint: str
    """Of the U-Net that it was trained on."""
    context: nn.Module


def load_networks(path: Path, dtype: str, base: Path | None) -> tuple[NVBModel, UNetDifference | None]:
    """The model of a checkpoint, not yet on the computing device.

    Of one that was trained on top of Stable Diffusion, without `base`, U-Net and autoencoder have no weights, and the
    difference says what the U-Net becomes. Raises CheckpointError or ConfigError.
    """
    chosen = choose_dtype(dtype, memory.get_torch_device())
    log.info("NVB-Face: %s in %s", path.name, chosen)
    offload, operations = memory.unet_offload_device(), comfy.ops.disable_weight_init
    if base is not None or read_metadata(path)["config_object"].base_model == "none":
        return load_model(path, str(offload), chosen, operations, base), None
    model, tensors = load_without_base(path, operations)
    for part in (model.encoder, model.view, model.context):
        part.to(offload, chosen).eval().requires_grad_(False)
    wanted = model.metadata[FINGERPRINT]["unet"]
    return model, UNetDifference(model.config, tensors, wanted, model.context)


def managed(module: nn.Module) -> ModelPatcher:
    """ComfyUI's handle on a module: it goes to the computing device when used, and off it when room is needed."""
    return ModelPatcher(module, load_device=memory.get_torch_device(), offload_device=memory.unet_offload_device())


def ready(*patchers: Any, memory_bytes: float = 0) -> None:
    """Have networks on their device, with room to work; nothing is loaded twice.

    Networks of ComfyUI's own layers may stay off the device in part, if they don't fit; diffusers' can't run then, and
    are loaded whole even where ComfyUI wouldn't: with `--novram`, or for want of room for what they compute.
    """
    whole = [patcher for patcher in patchers if not runs_in_parts(patcher.model)]
    if whole:
        memory.load_models_gpu(whole, memory_required=memory_bytes, force_full_load=True)
    if len(whole) < len(patchers):
        memory.load_models_gpu(list(patchers), memory_required=memory_bytes)
    for patcher in whole:
        patcher.partially_load(patcher.load_device, extra_memory=WHOLE)


def runs_in_parts(module: nn.Module) -> bool:
    """Whether all layers of a network are ComfyUI's, which fetch their weights when they run."""
    layers = [m for m in module.modules() if not list(m.children()) and list(m.parameters())]
    return all(hasattr(layer, "comfy_cast_weights") for layer in layers)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is float32 on a CPU, else what ComfyUI holds for the device's best. Raises ConfigError."""
    on_cpu = memory.is_device_cpu(device)
    if name == "auto":
        if on_cpu:
            return torch.float32
        if memory.should_use_bf16(device):
            return torch.bfloat16
        return torch.float16 if memory.should_use_fp16(device) else torch.float32
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r:.40} must be auto, {', '.join(DTYPES)}")
    if name == "fp16" and on_cpu:
        raise ConfigError("dtype fp16 needs a GPU; use auto, fp32 or bf16 on the CPU")
    return DTYPES[name]


def require_same_features(first: ModelConfig, second: ModelConfig, where: str) -> None:
    """Raise ConfigError unless two checkpoints' networks speak of features of one shape."""
    shapes = [(config.channels, config.feature_size) for config in (first, second)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"{where} are of different models ({first.name} has features of {shapes[0]}, {second.name} of "
            f"{shapes[1]}); take both from one Load NVB-Face Model"
        )


def bytes_per_number(module: nn.Module) -> int:
    """Size of a network's numbers."""
    return next(module.parameters()).element_size()


def encoding_bytes(model: NVBModel, faces: int) -> float:
    """Memory that encoding takes."""
    pixels = min(faces, FACES_AT_ONCE) * model.config.image_size**2
    return pixels * ENCODING_BYTES_PER_PIXEL * bytes_per_number(model.encoder)


def sampling_bytes(denoiser: Denoiser, views: int) -> float:
    """Memory that sampling views at once takes."""
    return views * denoiser.config.latent_size**2 * SAMPLING_BYTES_PER_CELL * bytes_per_number(denoiser.unet)


def decoding_bytes(model: NVBModel, views: int) -> float:
    """Memory that decoding views at once takes."""
    return views * model.config.image_size**2 * DECODING_BYTES_PER_PIXEL * bytes_per_number(model.vae)


def sampling_chunk(denoiser: Denoiser, device: torch.device) -> int:
    """Views to sample at once."""
    return _chunk(sampling_bytes(denoiser, 1), device)


def decoding_chunk(model: NVBModel, device: torch.device) -> int:
    """Views to decode at once."""
    return _chunk(decoding_bytes(model, 1), device)


def _chunk(bytes_per_view: float, device: torch.device) -> int:
    return min(automatic_chunk(device), max(1, int(CHUNK_BYTES // bytes_per_view)))
