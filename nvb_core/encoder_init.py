"""Start our encoder from a trained autoencoder's: VQGAN's and Stable Diffusion's have the same layout.

    encoder.down.2.block.1.conv1.weight -> levels.2.blocks.1.conv1.weight

What has no counterpart or another shape keeps its random start: the time layers always, all layers of other widths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .encoder import ImageEncoder
from .errors import CheckpointError
from .tensor_files import open_safetensors, require_numbers

PREFIXES = ("", "first_stage_model.", "model.")
"""Of the autoencoder within a file."""
_ENDS = {
    "conv_in": "stem",
    "norm_out": "norm_out",
    "conv_out": "conv_out",
    "mid.block_1": "mid1",
    "mid.block_2": "mid2",
    "mid.attn_1": "mid_attention",
}
_LEVEL = re.compile(r"down\.(\d+)\.(block|attn|downsample)\.?(\d*)")
_PLACES = {"block": "blocks", "attn": "attentions", "downsample": "down"}
_LAYERS = {"nin_shortcut": "skip", "proj_out": "attention.to_out", "q": "attention.to_q"}


@dataclass(frozen=True)
class Initialised:
    """How much of an encoder has been filled."""

    tensors: int
    numbers: int
    of_numbers: int


@torch.no_grad()
def initialise_encoder(encoder: ImageEncoder, path: Path) -> Initialised:
    """Copy what fits from the autoencoder in a .safetensors file, in VQGAN's layout.

    Raises CheckpointError if the file holds no such encoder or nothing of it fits.
    """
    with open_safetensors(path) as file:
        names = set(file.keys())
        prefix = next((p for p in PREFIXES if f"{p}encoder.conv_in.weight" in names), None)
        if prefix is None:
            raise CheckpointError(f"{path}: holds no encoder.conv_in.weight; give a VQGAN's or Stable Diffusion's file")
        start = f"{prefix}encoder."
        found = {name.removeprefix(start): file.get_tensor(name) for name in names if name.startswith(start)}
    own = encoder.state_dict()
    filled = {name: t for name, t in renamed(found).items() if name in own and t.shape == own[name].shape}
    if not filled:
        raise CheckpointError(f"{path}: no tensor of its encoder has the shape of ours; leave it out")
    for name, tensor in filled.items():
        require_numbers(f"{path}: the tensor for {name}", tensor, "copy or download the file again")
        own[name].copy_(tensor)
    return Initialised(len(filled), *(sum(t.numel() for t in part.values()) for part in (filled, own)))


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's tensors under our names; those without a place in ours are left out.

    Attention projects by matrices instead of 1×1 convolutions, keys and values by one, without biases.
    """
    flat = {name: t[:, :, 0, 0] if _projects(name) and t.ndim == 4 else t for name, t in tensors.items()}
    for name in [name for name in flat if name.endswith(".k.weight")]:
        values = flat.get(name.replace(".k.", ".v."))
        if values is not None:
            flat[name.replace(".k.", ".attention.to_kv.")] = torch.cat([flat[name], values])
    return {ours: tensor for name, tensor in flat.items() if (ours := our_name(name))}


def our_name(name: str) -> str | None:
    """Name in our encoder of a tensor of VQGAN's (without `encoder.`); None if there is none."""
    if match := _LEVEL.match(name):
        level, kind, index = match.groups()
        rest = name[match.end() :].removeprefix(".").removeprefix("conv.")
        place = f"levels.{level}.{_PLACES[kind]}"
        return _layer(f"{place}.{index}" if index else place, rest)
    for start, ours in _ENDS.items():
        if name.startswith(f"{start}."):
            return _layer(ours, name.removeprefix(f"{start}."))
    return None


def _layer(place: str, rest: str) -> str | None:
    layer, _, kind = rest.rpartition(".")
    return f"{place}.{_LAYERS.get(layer, layer)}.{kind}" if layer else f"{place}.{kind}"


def _projects(name: str) -> bool:
    return re.search(r"attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$", name) is not None
