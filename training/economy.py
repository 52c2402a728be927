"""Memory and speed of a network in training: half-precision base, recomputed activations, compiled networks."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nvb_core.errors import ConfigError
from nvb_core.lora import is_trained
from nvb_core.model import NVBModel

from .launch import resolve_precision
from .options import RunOptions
from .shards import blocks

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def economise(model: NVBModel, options: RunOptions) -> None:
    """Change a model that is to be trained as the options say; its parameters keep their names. Raises ConfigError."""
    if options.half_base:
        halve_base(model, DTYPES[resolve_precision(options.precision)])
    if options.gradient_checkpointing:
        recompute_activations(model)
    if options.compile != "none":
        for network in (model.encoder, model.unet, model.view.volume, model.view.aggregator):
            network.compile(backend=options.compile)


def halve_base(model: NVBModel, dtype: torch.dtype) -> None:
    """Store what is Stable Diffusion's own as `dtype`: its autoencoder, and its U-Net without adapters and attn2."""
    if model.config.base_model == "none":
        raise ConfigError("half_base is about Stable Diffusion's weights, and this model has none; leave it out")
    frozen = [parameter for name, parameter in model.unet.named_parameters() if not is_trained(name)]
    for parameter in [*model.vae.parameters(), *frozen]:
        parameter.data = parameter.data.to(dtype)


def recompute_activations(model: NVBModel) -> None:
    """Keep only what goes into each block; its inside is computed again in the backward pass."""
    model.unet.enable_gradient_checkpointing()
    model.vae.kl.enable_gradient_checkpointing()
    ours = nn.ModuleList([model.encoder, model.view])
    for block in blocks(ours):
        # No block draws random numbers, so there is no random state to keep.
        for name in ("forward", "mean_over_depth"):  # by which the aggregator calls its last block
            if hasattr(block, name):
                inside = getattr(block, name)
                setattr(block, name, partial(checkpoint, inside, use_reentrant=False, preserve_rng_state=False))
