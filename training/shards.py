"""Weights shared out over processes (FSDP of torch, `fully_shard`), and whole again where they are read by name.

A sharded parameter is a DTensor: each process holds some of its rows, and everything element by element, such as
optimiser and average, works on those alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

UNITS = ("BasicTransformerBlock", "ResnetBlock2D", "TimeResBlock", "AttentionBlock", "VolumeBlock", "AggregatorBlock")
"""Classes of the blocks that are gathered one at a time."""


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The network's blocks."""
    return (module for module in network.modules() if type(module).__name__ in UNITS)


def shard(network: nn.Module, device: torch.device, processes: int, keep_weights: bool) -> nn.Module:
    """Share a network's parameters out over all processes, in place.

    With `keep_weights` a gathered block keeps its weights until its backward pass has gone through it: as ZeRO-2, less
    to send and more to hold; else they are gathered twice per step, as ZeRO-3.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    for block in list(blocks(network)):
        fully_shard(block, mesh=mesh, reshard_after_forward=not keep_weights)
    fully_shard(network, mesh=mesh, reshard_after_forward=False)
    return network


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the CPU with the rows of all processes, which all have to call this."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """What a process holds of a whole tensor, if `like` is sharded; else all of it."""
    if not isinstance(like, DTensor):
        return tensor
    moved = tensor.to(like.device)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


@contextmanager
def callable_parts(network: nn.Module) -> Generator[None]:
    """Within it, submodules of a network that has been called may be called by themselves, by all processes alike."""
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(network, FSDPModule):
        yield
        return
    network.unshard()
    try:
        yield
    finally:
        for module in network.modules():  # what was gathered without a backward pass would stay, and get out of date
            if isinstance(module, FSDPModule):
                module.reshard()


@contextmanager
def whole_weights(network: nn.Module, keep: bool) -> Generator[None]:
    """Within it, a sharded network has whole parameters on the CPU to be read, where `keep`; all processes enter it."""
    sharded: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for module in network.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is None or not isinstance(parameter, DTensor):
                    continue
                gathered = whole(parameter.detach())
                if keep:
                    sharded.append((module, name, parameter))
                    module._parameters[name] = nn.Parameter(gathered, requires_grad=False)
        yield
    finally:
        for module, name, parameter in sharded:
            module._parameters[name] = parameter
