"""One process among those of a launch: joining it, its precision, and an end where another one is lost."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from nvb_core.errors import ConfigError, NVBError

from .options import Precision, RunOptions

if TYPE_CHECKING:
    from accelerate import Accelerator


class LostProcessError(NVBError):
    """Another process of the launch has ended or doesn't answer."""


def process_index(timeout_minutes: float = 30.0) -> int:
    """This process's place in a launch; the first call joins the launch, on CPUs too."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = (launched and not torch.cuda.is_available()) or parse_flag_from_env("ACCELERATE_USE_CPU")
    timeout = {"timeout": timedelta(minutes=timeout_minutes)} if launched else {}
    return PartialState(cpu=cpu, **timeout).process_index


def resolve_precision(precision: Precision) -> str:
    """`auto` becomes bf16 where the device computes in it; emulated bf16 is slower than float32. Raises ConfigError."""
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("precision fp16 needs a GPU and there is none here; use --precision bf16 or no")
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def build_accelerator(options: RunOptions) -> Accelerator:
    """accelerate as the options say, whatever its own configuration says of them. Raises ConfigError."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, GradientAccumulationPlugin

    accelerator = Accelerator(
        mixed_precision=resolve_precision(options.precision),
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=options.accumulate),
    )
    kind = accelerator.distributed_type
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigError(
            f"accelerate is configured for {kind.value}; configure it for plain multi-GPU and give --shard parameters "
            "(as FSDP and ZeRO-3) or --shard gradients (as ZeRO-2) here, whose runs can be resumed exactly"
        )
    if options.optimizer == "muon" and accelerator.mixed_precision == "fp16":
        raise ConfigError("--optimizer muon doesn't go with the loss scale of --precision fp16; use adamw, or bf16")
    if options.shard != "none" and accelerator.num_processes == 1:
        raise ConfigError(f"--shard {options.shard} shares out over processes and there is only one; leave it out")
    if options.shard != "none" and accelerator.mixed_precision == "fp16":
        raise ConfigError("--shard doesn't go with the loss scale of --precision fp16; use bf16")
    if options.shard != "none" and options.optimizer != "adamw":
        raise ConfigError(f"--shard goes with --optimizer adamw only, not {options.optimizer}")
    return accelerator


@contextmanager
def lost_processes() -> Generator[None]:
    """Turns what torch raises when another process doesn't answer into a LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()):
            raise
        reason = " ".join(str(error).split())[:200]
        raise LostProcessError(
            f"another process of this launch has ended or doesn't answer; the last saved state is kept, run the same "
            f"command to go on from it ({reason})"
        ) from None
