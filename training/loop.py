"""The training loop that every stage shares; it knows nothing of the model.

```
stage.make_batch(i) -prefetch-> stage.network(batch, generator) -> losses -> backward, clip, step, EMA -> state, log
```
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nvb_core.errors import ConfigError, NVBError

from .attention import quick_attention
from .batches import prefetch
from .budget import TimeBudget
from .interrupt import StopSignal
from .log import RunLog
from .muon import Muon, matrices
from .options import Precision, RunOptions
from .state import Progress, load_state, remove_partial_files, save_state

STATE_NAME = "state.safetensors"
ENDLESS = 2**31
"""Steps of a run whose time budget hasn't been turned into steps yet."""


class DivergedError(NVBError):
    """A loss or gradient that isn't a number any more."""


class Stage(Protocol):
    """What the loop needs to know of a stage."""

    @property
    def network(self) -> nn.Module:
        """forward(batch, generator) -> {"loss": scalar, other scalars}; parameters to train require gradients."""

    def make_batch(self, index: int) -> Any:
        """Micro-batch `index` of this process, a dataclass of tensors; a pure function of the index."""

    def picture(self) -> Tensor:
        """(3, H, W) in [-1, 1]: where training stands, at the averaged weights."""

    def export(self, progress: Progress) -> None:
        """Write the checkpoint of the averaged weights."""


def lr_factor(step: int, options: RunOptions) -> float:
    """Linear warm-up, constant, then a cosine to zero over the last `decay_fraction` of the steps."""
    warmup = min(1.0, (step + 1) / (options.warmup_steps + 1))
    start = options.steps * (1 - options.decay_fraction)
    if step < start:
        return warmup
    return warmup * 0.5 * (1 + math.cos(math.pi * (step - start) / max(1.0, options.steps - start)))


def resolve_precision(precision: Precision) -> str:
    """`auto` becomes bf16 where the device computes in it; emulated bf16 is slower than float32."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def process_index() -> int:
    """This process's place in a launch; the first call joins the launch, on CPUs too."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    launched_on_cpus = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    return PartialState(cpu=launched_on_cpus or parse_flag_from_env("ACCELERATE_USE_CPU")).process_index


def build_optimizer(network: nn.Module, options: RunOptions) -> torch.optim.Optimizer:
    """The optimiser of all parameters that require gradients."""
    parameters: list[Tensor] = [parameter for parameter in network.parameters() if parameter.requires_grad]
    adam: dict[str, Any] = dict(lr=options.lr, betas=options.betas, weight_decay=options.weight_decay, fused=True)
    if options.optimizer == "muon":
        return Muon(parameters, matrices(network), **adam)
    return torch.optim.AdamW(parameters, **adam)


def check_budget(state_path: Path, progress: Progress, options: RunOptions) -> None:
    """Raise ConfigError if the run of a state was planned for another time budget than the options'."""
    wanted, known = options.budget_minutes, progress.budget_minutes
    if wanted and known and wanted != known:
        raise ConfigError(
            f"{state_path}: planned for {known:g} minutes, not {wanted:g}; keep to that or use another --out"
        )


def noise_generator(seed: int, index: int, rank: int, device: torch.device) -> torch.Generator:
    """Randomness of the network's own draws (timesteps, noise) in micro-batch `index`."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + index) * 1_009 + rank)


def to_device(batch: Any, device: torch.device) -> Any:
    """A dataclass of tensors, moved."""
    return type(batch)(**{f.name: getattr(batch, f.name).to(device) for f in dataclasses.fields(batch)})


class Trainer:
    """Runs a stage to its last step, or for `options.max_minutes`, from wherever its folder says it stands."""

    def __init__(self, stage: Stage, options: RunOptions) -> None:
        from accelerate import Accelerator
        from diffusers.training_utils import EMAModel

        self.stage, self.options = stage, options
        self.accelerator = Accelerator(
            mixed_precision=resolve_precision(options.precision), gradient_accumulation_steps=options.accumulate
        )
        self.parameters = {n: p for n, p in stage.network.named_parameters() if p.requires_grad}
        self.optimizer = build_optimizer(stage.network, options)
        stage.network.to(self.accelerator.device)
        self.ema = EMAModel(self.parameters.values(), decay=options.ema_decay, foreach=True)
        self.state_path = options.out / STATE_NAME
        self.progress = Progress()
        if self.state_path.exists():
            self.progress = load_state(self.state_path, self.parameters, self.ema.shadow_params, self.optimizer)
            self.ema.optimization_step = self.progress.step
        check_budget(self.state_path, self.progress, options)
        self.network, self.prepared_optimizer = self.accelerator.prepare(stage.network, self.optimizer)

    def run(self) -> int:
        """Train; returns the number of steps done in all. Ctrl-C saves before it stops, an error saves nothing."""
        with ExitStack() as stack:
            log = None
            if self.accelerator.is_main_process:
                remove_partial_files(self.options.out)
                log = stack.enter_context(closing(RunLog(self.options.out, self.progress.step)))
            stop = stack.enter_context(StopSignal())
            first = self.progress.step * self.options.accumulate
            batches = prefetch(self.stage.make_batch, first, workers=self.options.workers)
            self._run_steps(stack.enter_context(closing(batches)), log, stop)
            self.save()
        self.accelerator.end_training()
        if stop.received:
            raise KeyboardInterrupt
        return self.progress.step

    @property
    def scheduled(self) -> RunOptions:
        """The options with the number of steps that the time budget, if there is one, allows."""
        options, planned = self.options, self.progress.planned_steps
        if not options.budget_minutes:
            return options
        if not planned:
            return dataclasses.replace(options, steps=ENDLESS)
        return dataclasses.replace(options, steps=planned, warmup_steps=min(options.warmup_steps, planned // 10))

    def _run_steps(self, batches: Iterator[Any], log: RunLog | None, stop: StopSignal) -> None:
        options, before = self.options, self.progress.minutes
        budget = TimeBudget(options.budget_minutes) if self.scheduled.steps == ENDLESS else None
        started = saved = time.monotonic()
        done = self.progress.step >= self.scheduled.steps
        while not done:
            values = self._train_step(batches)
            now = time.monotonic()
            self.progress = dataclasses.replace(
                self.progress, step=self.progress.step + 1, minutes=before + (now - started) / 60
            )
            if budget and self._plan(budget):
                budget, saved = None, -math.inf  # saved at once: a resumed run must not plan anew
            if log:
                self._report(log, values)
            last = self.progress.step >= self.scheduled.steps
            late = 0 < 60 * options.max_minutes <= now - started
            done = self._any_process(last or late or stop.received)
            if not done and now - saved >= 60 * options.save_minutes:
                self.save()
                saved = now

    def _plan(self, budget: TimeBudget) -> bool:
        """Turn the time budget into steps once the speed is known; all processes follow the first one."""
        from accelerate.utils import broadcast_object_list

        (left,) = broadcast_object_list([budget.steps_left(self.progress.minutes)])
        if left is None:
            return False
        planned = self.progress.step + left
        self.progress = dataclasses.replace(self.progress, planned_steps=planned, budget_minutes=budget.minutes)
        return True

    def _any_process(self, stop: bool) -> bool:
        """Whether one of the processes wants to stop; all have to leave the loop after the same step."""
        if stop:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _train_step(self, batches: Iterator[Any]) -> dict[str, float]:
        """One optimiser step over `accumulate` micro-batches. Raises DivergedError, with the weights still good."""
        options, accelerator, step = self.scheduled, self.accelerator, self.progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = options.lr * lr_factor(step, options)
        totals: dict[str, float] = {}
        for micro in range(options.accumulate):
            batch = to_device(next(batches), accelerator.device)
            index = step * options.accumulate + micro
            generator = noise_generator(options.seed, index, accelerator.process_index, accelerator.device)
            with accelerator.accumulate(self.network):
                with quick_attention(accelerator.device, accelerator.mixed_precision):
                    losses = self.network(batch, generator)
                accelerator.backward(losses["loss"])
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0.0) + float(value.detach()) / options.accumulate
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.parameters.values(), options.clip_norm)
                    totals["gradient_norm"] = float(norm)
                    _require_finite(totals, step + 1)
                self.prepared_optimizer.step()
                self.prepared_optimizer.zero_grad()
        self.ema.step(self.parameters.values())
        return totals

    def _report(self, log: RunLog, values: dict[str, float]) -> None:
        options, step = self.scheduled, self.progress.step
        if step % options.log_every == 0 or step == options.steps:
            lr = self.optimizer.param_groups[0]["lr"]
            total = "?" if options.steps == ENDLESS else str(options.steps)
            log.add_values(step, total, {**values, "lr": lr, "minutes": self.progress.minutes})
        if options.grid_every and step % options.grid_every == 0:
            with self.averaged_weights(), torch.no_grad():
                picture = self.stage.picture().float().cpu()
            log.add_picture(step, picture)

    @contextmanager
    def averaged_weights(self) -> Generator[None]:
        """The network with its averaged weights."""
        self.ema.store(self.parameters.values())
        self.ema.copy_to(self.parameters.values())
        try:
            yield
        finally:
            self.ema.restore(self.parameters.values())

    def save(self) -> None:
        """Resume state and exported checkpoint."""
        if self.accelerator.is_main_process and self.progress.step:
            save_state(self.state_path, self.progress, self.parameters, self.ema.shadow_params, self.optimizer)
            with self.averaged_weights(), torch.no_grad():
                self.stage.export(self.progress)


def _require_finite(values: dict[str, float], step: int) -> None:
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(values[name]):
            raise DivergedError(
                f"{name} is {values[name]} at step {step}: training diverged; the last saved state is kept, "
                "go on from it with a smaller --lr"
            )
