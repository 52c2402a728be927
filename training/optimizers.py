"""The optimisers, their learning rate, and what they remember of each parameter."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nvb_core.errors import ConfigError

from .economy import DTYPES
from .launch import resolve_precision
from .muon import Muon, matrices
from .options import RunOptions


def lr_factor(step: int, options: RunOptions) -> float:
    """Linear warm-up, constant, then a cosine to zero over the last `decay_fraction` of the steps."""
    warmup = min(1.0, (step + 1) / (options.warmup_steps + 1))
    start = options.steps * (1 - options.decay_fraction)
    if step < start:
        return warmup
    return warmup * 0.5 * (1 + math.cos(math.pi * (step - start) / max(1.0, options.steps - start)))


def build_optimizer(network: nn.Module, options: RunOptions) -> torch.optim.Optimizer:
    """The optimiser of all parameters that require gradients. Raises ConfigError."""
    parameters: list[Tensor] = [parameter for parameter in network.parameters() if parameter.requires_grad]
    settings: dict[str, Any] = dict(lr=options.lr, betas=options.betas, weight_decay=options.weight_decay)
    if options.optimizer == "adamw8bit":
        return _adamw8bit(parameters, settings)
    if options.optimizer == "muon":
        dtype = DTYPES[resolve_precision(options.precision)]
        return Muon(parameters, matrices(network), dtype=dtype, fused=True, **settings)
    return torch.optim.AdamW(parameters, fused=True, **settings)


def _adamw8bit(parameters: list[Tensor], settings: dict[str, Any]) -> torch.optim.Optimizer:
    if parameters[0].device.type == "cpu":
        raise ConfigError("--optimizer adamw8bit needs a GPU and there is none here; use --optimizer adamw")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ConfigError(
            "--optimizer adamw8bit needs the package bitsandbytes; pip install bitsandbytes or use --optimizer adamw"
        ) from None
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **settings)
    return optimizer


def moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What an optimiser remembers of a parameter, its count of steps aside; zeros before its first step.

    adamw: exp_avg, exp_avg_sq. muon: momentum, of matrices. adamw8bit: state1, state2, and of large parameters their
    scales absmax1, absmax2.
    """
    state = optimizer.state.get(parameter) or _fresh_state(optimizer, parameter)
    return {name: value for name, value in state.items() if name != "step" and not name.startswith("qmap")}


def restore_moments(
    optimizer: torch.optim.Optimizer, parameter: Tensor, steps: int, remembered: dict[str, Tensor]
) -> None:
    """Make an optimiser remember `moments` of a parameter after `steps` steps."""
    count = steps if _is_8bit(optimizer) else torch.tensor(float(steps), device=parameter.device)
    optimizer.state[parameter] = {**_fresh_state(optimizer, parameter), **remembered, "step": count}


def _is_8bit(optimizer: torch.optim.Optimizer) -> bool:
    return hasattr(optimizer, "init_state")  # bitsandbytes can't be imported just to ask


def _fresh_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    """As before the first step. bitsandbytes adds constant tables (qmap), one for all parameters."""
    if _is_8bit(optimizer):
        for g, group in enumerate(optimizer.param_groups):
            for i, candidate in enumerate(group["params"]):
                if candidate is parameter:
                    optimizer.init_state(group, parameter, g, i)  # type: ignore[attr-defined]
        return dict(optimizer.state.pop(parameter))
    if isinstance(optimizer, Muon) and any(parameter is matrix for matrix in optimizer.param_groups[1]["params"]):
        return {"momentum": torch.zeros_like(parameter)}
    return {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
