"""Stable Diffusion 1.x and 2.x as a base: U-Net and autoencoder from a single file or a diffusers folder, offline.

Only safetensors are read. The text encoder is left behind. What the noise prediction means is taken from the file where
it says so and from the caller where it doesn't; it is never guessed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from .autoencoder import Autoencoder
from .config import SD15, SD21, ModelConfig, ScheduleConfig
from .denoiser import build_unet
from .errors import CheckpointError, ConfigError
from .sd_layout import from_original_shape, unet_names, vae_names
from .tensor_files import open_safetensors, require_numbers, require_shape

PredictionType = Literal["epsilon", "v_prediction"]
PREDICTIONS: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "stable-diffusion-v1": "epsilon",
    "stable-diffusion-v2-512": "epsilon",
    "stable-diffusion-v2-768-v": "v_prediction",
}
"""What headers say (modelspec.prediction_type, modelspec.architecture, scheduler_config.json), and what it means."""
V_TENSOR, ZERO_SNR_TENSOR = "v_pred", "ztsnr"
"""Empty tensors by which single files of fine-tuned models say so; ComfyUI heeds them in SDXL only."""
SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "trained_betas": None,
}
"""Of the noise, in folders; single files don't say it."""
OLD_VAE_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Of the autoencoder's attention in folders that diffusers wrote before 0.14."""
ADVICE = "give a Stable Diffusion 1.x, 2.0 or 2.1 checkpoint (.safetensors) or diffusers folder"


@dataclass(frozen=True, eq=False)
class Base:
    """A Stable Diffusion model's U-Net and autoencoder, under diffusers' names."""

    config: ModelConfig
    """The preset that fits it, with its schedule."""
    unet: dict[str, Tensor]
    vae: dict[str, Tensor]

    def fingerprint(self) -> dict[str, str]:
        """Of U-Net and autoencoder the `fingerprint` of the weights, whatever file they are in."""
        return {"unet": fingerprint(self.unet), "vae": fingerprint(self.vae)}


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """64 hexadecimal digits that stand for tensors under diffusers' names; float32 counts as float16."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].to("cpu", torch.float16).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Declared:
    """What a file says of its schedule; None where it doesn't."""

    prediction_type: PredictionType | None = None
    zero_terminal_snr: bool = False


def read_base(
    path: Path, prediction_type: PredictionType | None = None, presets: Sequence[ModelConfig] = (SD15, SD21)
) -> Base:
    """The base in a single file or diffusers folder; `prediction_type` is for files that don't say theirs.

    Raises CheckpointError for anything else than a model of one of the presets, ConfigError if the prediction type is
    unknown or contradicts the file.
    """
    path = Path(path)
    with ExitStack() as stack:
        source = _Folder(path, stack) if os.path.isdir(path) else _SingleFile(path, stack)
        config = _matching(path, source, presets)
        schedule = _schedule(path, source.declared, prediction_type, config.schedule)
        with torch.device("meta"):
            expected_unet = build_unet(config).state_dict()
            expected_vae = Autoencoder(config.vae).kl.state_dict()
        unet = source.read_unet(expected_unet, config)
        vae = source.read_vae(expected_vae, config)
    return Base(replace(config, schedule=schedule), unet, vae)


def _schedule(path: Path, declared: Declared, given: PredictionType | None, schedule: ScheduleConfig) -> ScheduleConfig:
    said = declared.prediction_type
    if said is None and given is None:
        raise ConfigError(
            f"{path}: doesn't say whether it predicts noise or v; give --prediction-type epsilon (Stable Diffusion 1.x "
            "and 2.x-base as published) or v_prediction (2.0 and 2.1 at 768 pixels)"
        )
    if said and given and said != given:
        raise ConfigError(f"{path}: says that it predicts {said}, not {given}; leave --prediction-type out")
    chosen = cast(PredictionType, said or given)
    if not declared.zero_terminal_snr:
        return replace(schedule, prediction_type=chosen)
    if chosen != "v_prediction":
        raise CheckpointError(f"{path}: says that its last timestep is pure noise, which {chosen} can't do; {ADVICE}")
    return replace(schedule, prediction_type=chosen, zero_terminal_snr=True, timestep_spacing="trailing")


class _SingleFile:
    """The original layout: all networks in one file."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.file = stack.enter_context(open_safetensors(path))
        self.names = set(self.file.keys())
        self.declared = self._declared()

    def _declared(self) -> Declared:
        metadata = self.file.metadata() or {}
        said = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.architecture", "").split("/")[0]
        prediction = "v_prediction" if V_TENSOR in self.names else PREDICTIONS.get(said)
        return Declared(prediction, ZERO_SNR_TENSOR in self.names)

    def unet_shape(self, name: str, config: ModelConfig) -> list[int] | None:
        """Shape of a U-Net tensor under diffusers' name; None if it isn't there."""
        original = unet_names([name], config.unet)[name]
        return list(self.file.get_slice(original).get_shape()) if original in self.names else None

    def takes_more(self) -> bool:
        """Whether the U-Net listens to something besides text (unCLIP's picture, an upscaler's noise level)."""
        return any(name.startswith("model.diffusion_model.label_emb.") for name in self.names)

    def read_unet(self, expected: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """Tensors under diffusers' names. Raises CheckpointError."""
        return self._read(expected, unet_names(expected, config.unet))

    def read_vae(self, expected: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """As `read_unet`."""
        return self._read(expected, vae_names(expected, config.vae))

    def _read(self, expected: dict[str, Tensor], originals: dict[str, str]) -> dict[str, Tensor]:
        tensors = {}
        for name, want in expected.items():
            original = originals[name]
            if original not in self.names:
                raise CheckpointError(f"{self.path}: tensor {original} is missing; {ADVICE}")
            tensors[name] = from_original_shape(name, self.file.get_tensor(original))
            _check(f"{self.path}: {original}", tensors[name], want.shape)
        return tensors


class _Folder:
    """diffusers' layout: unet/, vae/ and scheduler/."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.files = {part: stack.enter_context(open_safetensors(_weights(path / part))) for part in ("unet", "vae")}
        self.names = {part: set(file.keys()) for part, file in self.files.items()}
        self.declared = self._declared()

    def _declared(self) -> Declared:
        values = _json(self.path / "scheduler" / "scheduler_config.json")
        for key, ours in SCHEDULE.items():
            if values.get(key, ours) != ours:
                found = f"{key} of its scheduler is {values[key]!r:.40}, not {ours!r}"
                raise CheckpointError(f"{self.path}: {found}; {ADVICE}")
        said = values.get("prediction_type")  # diffusers leaves a default out: then the file doesn't say
        if said is not None and (not isinstance(said, str) or said not in PREDICTIONS):
            raise CheckpointError(f"{self.path}: prediction_type {said!r} of its scheduler is neither epsilon nor v")
        return Declared(PREDICTIONS[said] if said else None, bool(values.get("rescale_betas_zero_snr", False)))

    def unet_shape(self, name: str, config: ModelConfig) -> list[int] | None:
        """As of a single file."""
        return list(self.files["unet"].get_slice(name).get_shape()) if name in self.names["unet"] else None

    def takes_more(self) -> bool:
        """As of a single file."""
        return any(name.startswith(("class_embedding.", "add_embedding.")) for name in self.names["unet"])

    def read_unet(self, expected: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """As of a single file."""
        return self._read("unet", expected, {name: name for name in expected})

    def read_vae(self, expected: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """As of a single file."""
        old = {_renamed(name, OLD_VAE_NAMES): name for name in self.names["vae"]}
        return self._read("vae", expected, {name: old.get(name, name) for name in expected})

    def _read(self, part: str, expected: dict[str, Tensor], stored: dict[str, str]) -> dict[str, Tensor]:
        tensors = {}
        for name, want in expected.items():
            if stored[name] not in self.names[part]:
                raise CheckpointError(f"{self.path / part}: tensor {name} is missing; {ADVICE}")
            tensors[name] = from_original_shape(name, self.files[part].get_tensor(stored[name]))
            _check(f"{self.path / part}: {name}", tensors[name], want.shape)
        return tensors


def _matching(path: Path, source: _SingleFile | _Folder, presets: Iterable[ModelConfig]) -> ModelConfig:
    """The preset whose context has the width that the file's cross-attention expects."""
    for preset in presets:
        level = preset.unet.cross_attention.index(True)
        key = f"down_blocks.{level}.attentions.0.transformer_blocks.0.attn2.to_k.weight"
        shape = source.unet_shape(key, preset)
        if shape is None or len(shape) < 2 or shape[1] != preset.channels:
            continue
        first = source.unet_shape("conv_in.weight", preset)
        channels = first[1] if first is not None and len(first) > 1 else 0
        if channels != preset.vae.latent_channels:
            raise CheckpointError(
                f"{path}: its U-Net takes {channels or 'no'} channels (an inpainting or depth model?); {ADVICE}"
            )
        if source.takes_more():
            raise CheckpointError(f"{path}: its U-Net takes more than text (an unCLIP model or an upscaler?); {ADVICE}")
        return preset
    raise CheckpointError(f"{path}: not a Stable Diffusion 1.x or 2.x model; {ADVICE}")


def _check(where: str, tensor: Tensor, shape: torch.Size) -> None:
    require_shape(where, tensor, shape)
    require_numbers(where, tensor, "copy or download the file again")


def _weights(folder: Path) -> Path:
    """The safetensors file of a diffusers model folder."""
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"):
        if os.path.isfile(folder / name):
            return folder / name
    raise CheckpointError(f"{folder}: holds no diffusion_pytorch_model.safetensors; {ADVICE}")


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); {ADVICE}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must be a JSON object")
    return values


def _renamed(name: str, table: dict[str, str]) -> str:
    """A tensor's name with its layer renamed: `….query.weight` -> `….to_q.weight`."""
    start, _, kind = name.rpartition(".")
    head, _, layer = start.rpartition(".")
    return f"{head}.{table[layer]}.{kind}" if layer in table else name
