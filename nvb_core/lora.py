"""Low-rank adapters for a pretrained U-Net: on every linear and convolution layer but those of attn2.

attn2 attends to our features in the place of text and is trained fully (paper section 3.1; rank 16, DESIGN section 5).
"""

from __future__ import annotations

import re

from torch import Tensor, nn

RANK = 16
ADAPTER = "nvb"
_ATTN2 = re.compile(r"(^|\.)attn2\.")
_FACTOR = re.compile(rf"\.lora_[AB]\.{ADAPTER}\.")
_BASE = ".base_layer."


def adaptable(unet: nn.Module) -> list[str]:
    """Names of the layers that get an adapter."""
    layers = (name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d))
    return [name for name in layers if not _ATTN2.search(name)]


def add_adapters(unet: nn.Module, rank: int = RANK) -> None:
    """Put adapters, which start without effect, into a U-Net; only they and attn2 require gradients then."""
    from peft import LoraConfig, inject_adapter_in_model

    names = adaptable(unet)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights="gaussian")
    inject_adapter_in_model(config, unet, adapter_name=ADAPTER)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(is_trained(name))


def is_trained(name: str) -> bool:
    """Whether a parameter of an adapted U-Net is an adapter's or one of attn2; the others are the base's."""
    return bool(_FACTOR.search(name) or _ATTN2.search(name))


def trained_state(unet: nn.Module) -> dict[str, Tensor]:
    """What of an adapted U-Net isn't the base's."""
    return {name: tensor for name, tensor in unet.state_dict().items() if is_trained(name)}


def adapter_layers(state: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors (A, B) of each adapted layer in a `trained_state`; a layer's change is B·A."""
    ends = tuple(f".lora_{factor}.{ADAPTER}.weight" for factor in "AB")
    layers = [name.removesuffix(ends[0]) for name in state if name.endswith(ends[0])]
    return {layer: (state[layer + ends[0]], state[layer + ends[1]]) for layer in layers}


def base_name(name: str) -> str:
    """The name that a parameter of the base has without adapters."""
    return name.replace(_BASE, ".")


def merged_state(unet: nn.Module) -> dict[str, Tensor]:
    """The state of a plain U-Net that computes what an adapted one does."""
    from peft.tuners.lora import Conv2d, Linear

    state = {base_name(name): tensor for name, tensor in unet.state_dict().items() if not _FACTOR.search(name)}
    for name, module in unet.named_modules():
        if isinstance(module, Linear | Conv2d):
            weight = state[f"{name}.weight"]
            state[f"{name}.weight"] = weight + module.get_delta_weight(ADAPTER).to(weight)
    return state
