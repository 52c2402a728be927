"""Step time, memory and model-FLOPs utilisation of both training steps at the paper's sizes, with random weights.

python -m benchmarks.training                                     # on one GPU, some minutes
python -m benchmarks.training --model shrunken --steps 4          # anywhere, in seconds; says nothing about real sizes

Random pictures stand in for data, so that nothing is waited for. Everything else is the trainer's own.
"""

from __future__ import annotations

import io
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nvb_core.config import SD15, SD21, ModelConfig
from nvb_core.flops import count
from nvb_core.lora import add_adapters
from nvb_core.model import NVBModel
from training.batches import RestorationBatch, ViewBatch
from training.economy import economise
from training.launch import process_index
from training.loop import Picture, Trainer
from training.options import RunOptions, Step1Options, Step2Options
from training.presets import PaperStep1, PaperStep2
from training.state import Progress
from training.step1 import DenoisingTarget, Step1Network
from training.step2 import Step2Network
from training.validation import ValidationSource

SHRUNKEN = replace(
    SD21,
    image_size=64,
    encoder=replace(SD21.encoder, base_channels=2, out_channels=12, norm_groups=2),
    view=replace(
        SD21.view,
        grid_size=4,
        volume_blocks=2,
        volume_heads=2,
        camera_predictor_heads=2,
        aggregator_width=8,
        aggregator_heads=2,
    ),
    unet=replace(
        SD21.unet, block_out_channels=(4, 8, 8, 8), attention_heads=(2, 2, 2, 2), norm_groups=2, layers_per_block=1
    ),
    vae=replace(SD21.vae, block_out_channels=(2, 4, 4, 4), norm_groups=2, layers_per_block=1),
)
MEASURED = ("step_seconds", "pictures_per_second", "peak_memory_gib")
MODELS = {"sd21": SD21, "sd15": SD15, "shrunken": SHRUNKEN}
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}
"""Dense bf16 with float32 sums, from the vendor's data sheets (of the SXM form where there are several)."""


@dataclass(frozen=True)
class Options:
    """Measure both training steps."""

    model: Literal["sd21", "sd15", "shrunken"] = "sd21"
    """Whose sizes."""
    steps: int = 20
    """Steps to time, after as many to warm up; 0 only counts the operations."""
    peak_tflops: float = 0.0
    """What the device could do; 0 knows some GPUs by name and else leaves utilisation out."""


class RandomStage:
    """A training step on one random batch."""

    validation_source: ValidationSource = "fixed"

    def __init__(self, network: nn.Module, batch: Any) -> None:
        self.network, self.batch = network, batch

    def make_batch(self, index: int) -> Any:
        """The same one."""
        return self.batch

    def make_validation_batch(self, index: int) -> Any:
        """The same one."""
        return self.batch

    def picture(self) -> Picture:
        """Nothing."""
        return Picture(torch.zeros(3, 8, 8), 0.0)

    def export(self, progress: Progress) -> None:
        """Not wanted."""


def random_model(config: ModelConfig) -> NVBModel:
    """As `adapted_model`, of random weights."""
    model = NVBModel(config)
    add_adapters(model.unet)
    return model


def random_batch(config: ModelConfig, options: RunOptions) -> Any:
    """Pictures in [-1, 1] and frontal cameras."""
    size, count = config.image_size, options.batch_size
    frontal = torch.tensor([1.0, 0, 0, 0, 0, -1.0, 0, 0, 0, 0, -1.0, 1.0, 1.0, 1.0, 0.5, 0.5])

    def pictures(*shape: int) -> Tensor:
        return torch.rand(*shape, 3, size, size) * 2 - 1

    if not isinstance(options, Step2Options):
        known = torch.ones(count, dtype=torch.bool)
        return RestorationBatch(pictures(count), pictures(count), frontal.expand(count, 16), known)
    views = options.views
    cameras = frontal.expand(count, views, 16)
    return ViewBatch(pictures(count), cameras[:, 0], pictures(count, views), cameras, pictures(count, views))


def build_network(config: ModelConfig, options: RunOptions) -> Step1Network | Step2Network:
    """The network that a step trains."""
    model = random_model(config)
    economise(model, options)
    if isinstance(options, Step2Options):
        return Step2Network(model, options)
    assert isinstance(options, Step1Options)  # noqa: S101
    return Step1Network(model, options)


def flops_per_step(config: ModelConfig, options: RunOptions) -> int:
    """Operations of a forward and backward pass, without those that checkpointing repeats; counted without memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    plain = replace(options, gradient_checkpointing=False, half_base=False, compile="none")
    with torch.device("meta"):
        network = build_network(config, plain)
    with FakeTensorMode():
        pretend_to_be_on_cpu(network)
        network.target = DenoisingTarget(network.model)
        batch = random_batch(config, plain)

        def run() -> Tensor:
            loss: Tensor = network(batch, torch.Generator().manual_seed(0))["loss"]
            loss.backward()
            return loss

        return count(run)


def pretend_to_be_on_cpu(network: nn.Module) -> None:
    """Give a network without memory tensors of torch's FakeTensorMode, which has no memory either but has devices."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape)
            module._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def measure(config: ModelConfig, options: RunOptions) -> dict[str, float]:
    """Medians of the trainer's own log, without the first half."""
    torch.manual_seed(0)
    stage = RandomStage(build_network(config, options), random_batch(config, options))
    with redirect_stdout(io.StringIO()):
        Trainer(stage, options).run()
    lines = [json.loads(line) for line in (options.out / "loss.jsonl").read_text().splitlines()]
    later = lines[len(lines) // 2 :]
    return {name: statistics.median(line[name] for line in later) for name in MEASURED}


def peak_tflops(given: float) -> float:
    """Of the first GPU, if it is known; else 0."""
    if given or not torch.cuda.is_available():
        return given
    device = torch.cuda.get_device_name()
    return next((value for name, value in PEAK_TFLOPS.items() if name in device), 0.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    import tyro

    options = tyro.cli(Options, args=argv, prog="python -m benchmarks.training")
    process_index()
    config = MODELS[options.model]
    peak = peak_tflops(options.peak_tflops)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{options.model} on {device}, accelerate's precision by default")
    print(f"{'step':<8}{'pictures':>10}{'TFLOP':>10}{'s/step':>10}{'pictures/s':>12}{'GiB':>8}{'utilisation':>13}")
    for name, kind in (("step1", PaperStep1), ("step2", PaperStep2)):
        with tempfile.TemporaryDirectory() as out:
            settings: dict[str, Any] = {"steps": max(1, 2 * options.steps), "log_every": 1, "grid_every": 0}
            settings |= {"validate_every": 0, "tracker": "none", "data": (Path(),), "init": Path()}
            plan = kind(out=Path(out), **settings)
            tflop = flops_per_step(config, plan) / 1e12
            found = measure(config, plan) if options.steps else dict.fromkeys(MEASURED, math.nan)
        used = f"{tflop / found['step_seconds'] / peak:.1%}" if peak else "-"
        print(
            f"{name:<8}{plan.pictures_per_batch:>10}{tflop:>10.4g}{found['step_seconds']:>10.3f}"
            f"{found['pictures_per_second']:>12.2f}{found['peak_memory_gib']:>8.2f}{used:>13}",
            flush=True,
        )


if __name__ == "__main__":
    main()
