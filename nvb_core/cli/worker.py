"""The process that runs a command: its share of the work, its device and its number format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias

import torch

from ..errors import ConfigError

DeviceName: TypeAlias = Literal["auto", "cpu", "cuda"]
DtypeName: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Worker:
    """Process `index` of `count`, working on `device`."""

    index: int
    count: int
    device: torch.device

    def barrier(self) -> None:
        """Return once every process has come here, to go on together."""
        if self.count > 1:
            torch.distributed.barrier()

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process does what is within (a download, say) before the others begin with it."""
        if self.index > 0:
            self.barrier()
        yield
        if self.index == 0:
            self.barrier()

    def wait_for_all(self) -> None:
        """Return once every process has come here: a launcher ends all of them when the first fails."""
        if self.count > 1:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


def join_launch(device: DeviceName) -> Worker:
    """This process's place in an `accelerate launch`, or the only worker. Raises ConfigError without such a device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no usable NVIDIA GPU here; use --device cpu or auto")
    use_gpu = device != "cpu" and torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        state = PartialState(cpu=not use_gpu, timeout=_PATIENCE)  # without a GPU it must hear so, or joins nothing
        return Worker(state.process_index, state.num_processes, state.device)
    return Worker(0, 1, torch.device("cuda" if use_gpu else "cpu"))


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """`auto` is float32 on a CPU, else bfloat16 where the GPU has it and float16 where not."""
    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("--dtype fp16 needs a GPU; use fp32 or bf16 on the CPU")
    return _DTYPES[name]
