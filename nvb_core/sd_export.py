"""A model's U-Net and autoencoder in the forms that others read: a diffusers folder, or Stable Diffusion's single file.

Encoder, views and context stay in our checkpoint; the U-Net expects their tokens in the place of a text's.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from .autoencoder import Autoencoder
from .backbone import V_TENSOR, ZERO_SNR_TENSOR
from .config import ModelConfig
from .denoiser import build_scheduler
from .errors import ConfigError
from .model import NVBModel
from .sd_layout import to_original_shape, unet_names, vae_names
from .staging import staged_folder, write_atomically, writing

MARKER = "nvb-face.json"
"""In a diffusers folder that was written here; any other is somebody's own and stays untouched."""
PARTS = ("unet", "vae", "scheduler")


def require_sd_shape(config: ModelConfig) -> None:
    """Raise ConfigError for a model whose networks aren't plain ones of Stable Diffusion."""
    if config.unet.learned_position or config.vae.patch != 1:
        raise ConfigError(
            f"{config.name} isn't built on Stable Diffusion (its networks have parts of their own), so that no other "
            "program could read it; export models that were trained with --base"
        )


def write_diffusers_folder(model: NVBModel, folder: Path, dtype: torch.dtype) -> None:
    """FOLDER/unet, vae and scheduler; the folder appears whole or not at all.

    Raises ConfigError, OccupiedError or OutputError.
    """
    require_sd_shape(model.config)
    kl = model.vae.kl
    kl.register_to_config(scaling_factor=model.config.vae.scaling_factor)
    with staged_folder(folder, MARKER, PARTS, lambda target: (target / MARKER).is_file()) as stage, writing(folder):
        for name, network in (("unet", model.unet), ("vae", kl)):
            network.to(dtype).save_pretrained(stage / name, safe_serialization=True)
        build_scheduler(model.config.schedule).save_pretrained(stage / "scheduler")
        record = {"model": model.config.name, "training": model.metadata.get("training", {})}
        (stage / MARKER).write_text(json.dumps(record, indent=2), encoding="utf-8")


def write_single_file(model: NVBModel, path: Path, dtype: torch.dtype) -> None:
    """Stable Diffusion's original layout, as ComfyUI's loaders read it. Raises ConfigError or OutputError."""
    from safetensors.torch import save_file

    tensors = single_file_tensors(model.config, model.unet.state_dict(), model.vae, dtype)
    schedule = model.config.schedule
    header = {
        "modelspec.title": model.config.name,
        "modelspec.prediction_type": "v" if schedule.prediction_type == "v_prediction" else "epsilon",
    }
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=header))


def single_file_tensors(
    config: ModelConfig, unet: dict[str, Tensor], vae: Autoencoder, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Tensors under the original names, and the empty ones that say what is predicted. Raises ConfigError."""
    require_sd_shape(config)
    tensors = {name: unet[key] for key, name in unet_names(unet, config.unet).items()}
    kl = vae.kl.state_dict()
    tensors |= {name: to_original_shape(key, kl[key]) for key, name in vae_names(kl, config.vae).items()}
    tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    if config.schedule.prediction_type == "v_prediction":
        tensors[V_TENSOR] = torch.empty(0)
    if config.schedule.zero_terminal_snr:
        tensors[ZERO_SNR_TENSOR] = torch.empty(0)
    return tensors
