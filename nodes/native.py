"""Core's Stable Diffusion models with our adapters, attn2 and per-timestep context."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.model_sampling
import torch
from torch import Tensor

from ..nvb_core.adapted import require_base
from ..nvb_core.backbone import fingerprint
from ..nvb_core.config import ModelConfig
from ..nvb_core.denoiser import build_unet
from ..nvb_core.errors import CheckpointError, ConfigError
from ..nvb_core.lora import adapter_layers
from ..nvb_core.sd_layout import original_unet_name
from .networks import UNetDifference
from .sockets import DifferencePart, ViewsOfGrid

VIEW_KEY = "nvb_view"
"""Of a conditioning: which view each latent of the batch becomes."""
NEGATIVE = -1
PREFIX = "diffusion_model."

_fingerprints: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


class ViewContext:
    """Gives the U-Net, at each of its calls, the tokens of every latent's view at the call's timestep."""

    def __init__(self, model: Any, denoiser: DifferencePart, views: ViewsOfGrid) -> None:
        self.base_model = model.model
        self.previous: Callable[..., Tensor] | None = model.model_options.get("model_function_wrapper")
        self.config = denoiser.model.config
        self.context, self.features = denoiser.model.context, views.values
        self.patchers = [views.grid.features.encoder.patcher, views.grid.view.patcher, denoiser.patcher]
        self.device = denoiser.patcher.load_device
        self.count = self.features.faces * self.features.views_per_face

    @torch.no_grad()
    def __call__(self, apply_model: Callable[..., Tensor], call: dict[str, Any]) -> Tensor:
        """A wrapper of ComfyUI's model function."""
        conditions = dict(call["c"])
        negative = self._negative_parts(conditions.pop(VIEW_KEY, None))
        (timestep,) = set(self.base_model.model_sampling.timestep(call["timestep"]).flatten().tolist())
        tokens = {kind: self._tokens(int(timestep), kind) for kind in set(negative)}
        conditions["c_crossattn"] = torch.cat([tokens[kind] for kind in negative]).to(call["input"])
        if self.previous:
            return self.previous(apply_model, {**call, "c": conditions})
        return apply_model(call["input"], call["timestep"], **conditions)

    def _negative_parts(self, named: Tensor | None) -> list[bool]:
        """A latent batch is all views in order, once or more: for each time, whether it is drawn without features."""
        if named is None:
            raise ConfigError(
                "the model comes from Apply to Model (NVB-Face); take positive and negative from there too"
            )
        parts = [part.tolist() for part in named.flatten().round().int().split(self.count)]
        if any(part not in ([NEGATIVE] * self.count, list(range(self.count))) for part in parts):
            raise ConfigError(
                f"there are {self.count} views, but the latent batch has another size; give the sampler a batch of "
                f"{self.count} latents (output latent of Apply to Model)"
            )
        return [part[0] == NEGATIVE for part in parts]

    def _tokens(self, timestep: int, negative: bool) -> Tensor:
        """(views, h·w, C) of all views, or of no view as often."""
        dtype = next(self.context.parameters()).dtype  # the view model may have another
        if negative:
            side, channels = self.config.feature_size, self.config.channels
            nothing = torch.zeros(1, channels, side, side, device=self.device, dtype=dtype)
            return self.context(nothing).expand(self.count, -1, -1)
        return self.context(self.features.at(timestep, 0, self.count).to(dtype))


def patched_model(model: Any, difference: UNetDifference, context: ViewContext) -> Any:
    """A clone of core's model that draws views. Raises CheckpointError or ConfigError if it isn't the right one."""
    config = difference.config
    originals = {name: PREFIX + original_unet_name(name, config.unet) for name in unet_shapes(config)}
    _require_unet(model, difference, originals)
    _require_prediction(model, config)
    patched = model.clone()
    to_load, lora = as_lora(difference, originals)
    patches = comfy.lora.load_lora(lora, to_load)
    applied = set(patched.add_patches(patches))
    if missing := set(to_load.values()) - applied:
        raise CheckpointError(f"the model takes no patch of {min(missing)}; load it with core's Load Checkpoint")
    patched.set_model_unet_function_wrapper(context)
    patched.set_additional_models("nvb_face", context.patchers)
    return patched


def as_lora(difference: UNetDifference, originals: dict[str, str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A difference as ComfyUI reads LoRA files: the model's tensor of each name, and the file's tensors.

    attn2 replaces the base's, whatever that is: it attends to our tokens, not to a text's.
    """
    to_load: dict[str, str] = {}
    lora: dict[str, Tensor] = {}
    for layer, (down, up) in adapter_layers(difference.tensors).items():
        to_load[layer] = originals[f"{layer}.weight"]
        lora |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
    for name, tensor in difference.tensors.items():
        if name in originals:
            to_load[name] = originals[name]
            lora[f"{name}.set_weight"] = tensor
    return to_load, lora


@lru_cache(maxsize=2)
def unet_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Shapes of a plain U-Net's tensors under diffusers' names."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_unet(config).state_dict().items()}


def _require_unet(model: Any, difference: UNetDifference, originals: dict[str, str]) -> None:
    state = model.model.state_dict()
    shapes = unet_shapes(difference.config)
    for name, original in originals.items():
        if original not in state or state[original].shape != shapes[name]:
            raise CheckpointError(
                f"the model isn't the kind that {difference.config.name} was trained on ({original} differs); connect "
                "that Stable Diffusion checkpoint"
            )
    if model.model not in _fingerprints:
        # What other patches have changed in place is kept in the backup.
        kept = {key: entry.weight for key, entry in model.backup.items()}
        weights = {name: kept.get(original, state[original]) for name, original in originals.items()}
        _fingerprints[model.model] = fingerprint(weights)
    require_base(
        "the NVB-Face checkpoint", {"unet": difference.fingerprint}, {"unet": _fingerprints[model.model]}, "the model"
    )


def _require_prediction(model: Any, config: ModelConfig) -> None:
    sampling = model.get_model_object("model_sampling")
    found = isinstance(sampling, comfy.model_sampling.V_PREDICTION), bool(getattr(sampling, "zsnr", False))
    predicts_v, zero_snr = config.schedule.prediction_type == "v_prediction", config.schedule.zero_terminal_snr
    if found != (predicts_v, zero_snr):
        wanted = f"{'v_prediction' if predicts_v else 'eps'}, zsnr {'on' if zero_snr else 'off'}"
        raise ConfigError(
            f"the model has another prediction or noise schedule; put ModelSamplingDiscrete ({wanted}) before this"
        )
