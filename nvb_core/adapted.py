"""Models on top of Stable Diffusion: its U-Net with adapters, its autoencoder, and our encoder, context and views.

A checkpoint of such a model is a difference: it holds what isn't the base's, and a fingerprint of the base.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .autoencoder import Autoencoder
from .backbone import ADVICE, Base, read_base
from .config import ModelConfig
from .denoiser import ContextEmbedding, build_unet
from .encoder import ImageEncoder
from .errors import CheckpointError, ConfigError
from .header import FINGERPRINT, parse_header
from .lora import ADAPTER, add_adapters, is_trained, merged_state, trained_state
from .model import NVBModel
from .tensor_files import open_safetensors, read_exactly
from .view_transform import ViewTransform

OURS = ("encoder", "view", "context")
LATENT_COLOURS = [[0.298, 0.187, -0.158, -0.184], [0.207, 0.286, 0.189, -0.271], [0.208, 0.173, 0.264, -0.473]]
"""Red, green and blue of a latent channel: the widely used approximation for Stable Diffusion 1.x and 2.x."""


def adapted_model(base: Base) -> NVBModel:
    """A float32 model to train: the base with adapters, which start without effect; all else is new.

    The base's own weights don't require gradients.
    """
    with torch.device("meta"):
        model = NVBModel(base.config)
    config = base.config
    model.encoder = ImageEncoder(config.encoder)
    model.view = ViewTransform(config)
    model.context = ContextEmbedding(config.channels, config.feature_size)
    return _on_base(model, base)


def load_adapted(path: Path, base: Path | None) -> NVBModel:
    """The float32 model of a checkpoint that is a difference, with its adapters, to be trained further.

    `base` is the single file or diffusers folder that it was trained on. Raises CheckpointError, also if the base is
    missing or another one.
    """
    model, difference = load_without_base(path)
    if base is None:
        raise CheckpointError(f"{path}: is a difference to {model.config.base_model} weights; name them with --base")
    weights = read_base(base, model.config.schedule.prediction_type, (model.config,))
    require_base(path, model.metadata[FINGERPRINT], weights.fingerprint(), base)
    _on_base(model, weights)
    model.unet.load_state_dict(difference, strict=False, assign=True)
    return model


def load_without_base(path: Path, operations: Any = nn) -> tuple[NVBModel, dict[str, Tensor]]:
    """Our own parts of a checkpoint that is a difference, float32, and what it says of the U-Net, by adapted names.

    The model's U-Net and autoencoder have no weights (they are on the meta device). Raises CheckpointError.
    """
    with open_safetensors(path) as file:
        metadata = parse_header(path, file.metadata())
        config: ModelConfig = metadata["config_object"]
        with torch.device("meta"):
            plain, unet = NVBModel(config), build_unet(config)
            model = plain if operations is nn else NVBModel(config, operations)
            add_adapters(unet)
        names = {stored_name(name): name for name in trained_state(unet)}
        expected = {f"{part}.{n}": t for part in OURS for n, t in getattr(plain, part).state_dict().items()}
        shapes = trained_state(unet)
        expected |= {f"unet.{stored}": shapes[name] for stored, name in names.items()}
        tensors = {name: tensor.float() for name, tensor in read_exactly(path, file, expected).items()}
    for part in OURS:
        own = {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
        getattr(model, part).load_state_dict(own, assign=True)
    model.metadata = metadata
    return model, {name: tensors[f"unet.{stored}"] for stored, name in names.items()}


def difference(model: NVBModel) -> dict[str, Tensor]:
    """The tensors of an adapted model that aren't the base's, as a checkpoint names them."""
    tensors = {f"{part}.{n}": t for part in OURS for n, t in getattr(model, part).state_dict().items()}
    return tensors | {f"unet.{stored_name(n)}": t for n, t in trained_state(model.unet).items()}


def merged_tensors(model: NVBModel) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and tensors of the complete model that computes what an adapted one does."""
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("unet.")}
    tensors |= {f"unet.{name}": tensor for name, tensor in merged_state(model.unet).items()}
    return replace(model.config, base_model="none"), tensors


def require_base(path: Path | str, wanted: dict[str, str], found: dict[str, str], where: Path | str) -> None:
    """Raise CheckpointError unless each fingerprint found is the one that a checkpoint was trained on."""
    wrong = [part for part in found if found[part] != wanted[part]]
    if wrong:
        names = {"unet": "U-Net", "vae": "autoencoder"}
        raise CheckpointError(
            f"{where}: isn't the base that {path} was trained on (other {' and '.join(names[w] for w in wrong)} "
            f"weights); {ADVICE} with the very same weights, in float16 or float32"
        )


def stored_name(name: str) -> str:
    """A parameter of an adapted U-Net as checkpoints name it, without the adapter's own name."""
    return name.replace(f".{ADAPTER}.", ".")


def _on_base(model: NVBModel, base: Base) -> NVBModel:
    """Give a model the base's U-Net, with adapters, and autoencoder."""
    if model.config.base_model == "none":
        raise ConfigError(f"{model.config.name} is a complete model; it has no base")
    model.unet.load_state_dict({name: t.float() for name, t in base.unet.items()}, assign=True)
    add_adapters(model.unet)
    for name, parameter in model.unet.named_parameters():
        if is_trained(name):  # training mustn't change the caller's base
            parameter.data = parameter.data.clone()
    model.vae = Autoencoder(model.config.vae)
    model.vae.kl.load_state_dict({name: t.float() for name, t in base.vae.items()}, assign=True)
    if model.config.vae.latent_channels == len(LATENT_COLOURS[0]):
        model.vae.preview_weight.copy_(torch.tensor(LATENT_COLOURS))
    model.vae.requires_grad_(False)
    model.metadata = {**model.metadata, FINGERPRINT: base.fingerprint()}
    return model
