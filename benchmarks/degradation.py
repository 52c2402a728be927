"""How many photos a second are degraded, one core against a GPU where there is one, and whether both give the same.

python -m benchmarks.degradation [--images 32]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from nvb_core.degradation import PRESETS, Degradation, degrade, degrade_together, sample_degradation
from nvb_core.images import load_image
from training.evaluation.measure import machine_name
from training.evaluation.metrics import psnr

PHOTO = "examples/astronaut.jpg"
LEVELS = ("train", "level1", "level2")
BATCH_SIZES = (1, 8, 32, 64)
SIZE = 512
GPU = torch.device("cuda")


@dataclass(frozen=True)
class Options:
    images: int = 32
    """Photos that each figure of the CPU is a mean of."""


def main() -> None:
    """Print a table for each device."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    photo = F.interpolate(load_image(PHOTO).pixels[None], (SIZE, SIZE), mode="bilinear", antialias=True)
    photos = photo.expand(max(options.images, *BATCH_SIZES), -1, -1, -1)
    print_cpu(photos[: options.images])
    if torch.cuda.is_available():
        print_gpu(photos)
    else:
        Console().print("no GPU here: its figures are not measured")


def print_cpu(photos: Tensor) -> None:
    """Speed of one core, by CPU time, which other programs disturb less; batched against alone."""
    table = Table(
        "level", "images/s a core", "bar", "of it on the host of a GPU, ms an image", "batched equals alone, least PSNR"
    )
    for level in LEVELS:
        degradations = drawn(level, len(photos))
        degrade(photos[:2], degradations[:2])
        alone, seconds = timed(lambda ds=degradations: degrade(photos, ds), time.process_time)  # type: ignore[misc]
        together = degrade_together(photos, degradations, [0] * len(photos))
        table.add_row(
            level,
            f"{len(photos) / seconds:.1f}",
            ">= 10",
            f"{1e3 * host_seconds(photos, degradations) / len(photos):.1f}",
            f"{float(psnr(alone, together).min()):.0f} dB",
        )
    print(f"{SIZE}², one core of {machine_name(photos.device)}")
    Console().print(table)


def print_gpu(photos: Tensor) -> None:
    """Speed by batch size, kernels launched, and the least PSNR against the CPU."""
    table = Table("level", "batch", "images/s", "bar", "kernels", "equals CPU, least PSNR")
    for level in LEVELS:
        for batch in BATCH_SIZES:
            degradations, on_cpu = drawn(level, batch), photos[:batch]
            on_gpu = on_cpu.to(GPU)
            seconds = min(timed(lambda x=on_gpu, ds=degradations: finished(x, ds))[1] for _ in range(5))  # type: ignore[misc]
            least = float(psnr(degrade(on_cpu, degradations), degrade(on_gpu, degradations).cpu()).min())
            bar = ">= 60" if batch == 32 else ""
            kernels = launches(on_gpu, degradations)
            table.add_row(level, str(batch), f"{batch / seconds:.0f}", bar, str(kernels), f"{least:.0f} dB")
    print(f"{SIZE}², {machine_name(torch.device('cuda'))}")
    Console().print(table)


def drawn(level: str, count: int) -> list[Degradation]:
    return [sample_degradation(seed, PRESETS[level]) for seed in range(count)]


def timed(work: Callable[[], Tensor], clock: Callable[[], float] = time.perf_counter) -> tuple[Tensor, float]:
    start = clock()
    result = work()
    return result, clock() - start


def finished(photos: Tensor, degradations: list[Degradation]) -> Tensor:
    result = degrade(photos, degradations)
    torch.cuda.synchronize()
    return result


def launches(photos: Tensor, degradations: list[Degradation]) -> int:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        finished(photos, degradations)
    return sum(event.count for event in profiled.key_averages() if event.key == "cudaLaunchKernel")


def host_seconds(photos: Tensor, degradations: list[Degradation]) -> float:
    """CPU time of what stays on the CPU when a GPU computes: drawing noise, blur kernels, starting operations.

    Measured on a device that computes nothing; what starts its operations is slower than a GPU's.
    """
    nowhere = photos.to("meta")
    degrade(nowhere, degradations)
    return timed(lambda: degrade(nowhere, degradations), time.process_time)[1]


if __name__ == "__main__":
    main()
