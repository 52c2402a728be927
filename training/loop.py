"""The training loop that every stage shares; it knows nothing of the model.

```
stage.make_batch(i) -prefetch-> stage.network(batch, generator) -> losses -> backward, clip, step, EMA -> state, log
```
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nvb_core.errors import ConfigError, NVBError, OccupiedError
from nvb_core.staging import locked

from .attention import quick_attention
from .batches import RestorationBatch, ViewBatch
from .budget import TimeBudget
from .interrupt import StopSignal
from .launch import build_accelerator, lost_processes
from .log import RunLog, check_tracker
from .optimizers import build_optimizer, lr_factor
from .options import RunOptions
from .prefetch import lost_workers, prefetch
from .shards import callable_parts, shard, whole_weights
from .speed import Speed, peak_memory_gib
from .state import Progress, load_state, read_progress, remove_partial_files, require_same_init, save_state
from .validation import ValidationSource

STATE_NAME = "state.safetensors"
ENDLESS = 2**31
"""Steps of a run whose time budget hasn't been turned into steps yet."""
VALIDATION_STREAM = 1
"""In the place of a process's number: noise of measurements, which training never draws."""


class DivergedError(NVBError):
    """A loss or gradient that isn't a number any more."""


@dataclass(frozen=True)
class Picture:
    """Where training stands."""

    pixels: Tensor  # (3, H, W) in [-1, 1]
    psnr_db: float
    """Of what the model made in it."""


class Stage(Protocol):
    """What the loop needs to know of a stage."""

    @property
    def network(self) -> nn.Module:
        """forward(batch, generator) -> {"loss": scalar, other scalars}; parameters to train require gradients."""

    def make_batch(self, index: int) -> Any:
        """Micro-batch `index` of all processes', a dataclass of tensors; a pure function of the index."""

    @property
    def validation_source(self) -> ValidationSource:
        """Where validation batches come from: pictures held out, or, without any, fixed ones of those trained on."""

    def make_validation_batch(self, index: int) -> Any:
        """Batch `index` to measure on, always the same."""

    def picture(self) -> Picture:
        """Drawn at the averaged weights, always of the same faces."""

    def export(self, progress: Progress) -> None:
        """Write the checkpoint of the averaged weights."""


def check_budget(state_path: Path, progress: Progress, options: RunOptions) -> None:
    """Raise ConfigError if the run of a state was planned for another time budget than the options'."""
    wanted, known = options.budget_minutes, progress.budget_minutes
    if wanted and known and wanted != known:
        raise ConfigError(
            f"{state_path}: planned for {known:g} minutes, not {wanted:g}; keep to that or use another --out"
        )


def noise_generator(seed: int, index: int, stream: int, device: torch.device) -> torch.Generator:
    """Randomness of the network's own draws (timesteps, noise) in micro-batch `index` of training (stream 0)."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + index) * 1_009 + stream)


def own_batch(make_batch: Callable[[int], Any], rank: int, processes: int, index: int) -> Any:
    """A process's micro-batch `index`: all processes together draw those that one with as many more steps would."""
    return make_batch(index * processes + rank)


def to_device(batch: Any, device: torch.device) -> Any:
    """A dataclass of tensors, moved; pictures that were left for this are degraded there."""
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    moved = type(batch)(**{name: v.to(device) if isinstance(v, Tensor) else v for name, v in values.items()})
    return moved.completed() if isinstance(moved, RestorationBatch | ViewBatch) else moved


class Trainer:
    """Runs a stage to its last step, or for `options.max_minutes`, from wherever its folder says it stands."""

    def __init__(self, stage: Stage, options: RunOptions) -> None:
        from diffusers.training_utils import EMAModel

        check_tracker(options.tracker)
        self.stage, self.options = stage, options
        self.accelerator = build_accelerator(options)
        self.network = self._distributed(stage.network.to(self.accelerator.device))
        self.parameters = {n: p for n, p in stage.network.named_parameters() if p.requires_grad}
        self.optimizer = build_optimizer(stage.network, options)
        self.ema = EMAModel(self.parameters.values(), decay=options.ema_decay, foreach=True)
        self.state_path = options.out / STATE_NAME
        self.progress = self._resumed()
        check_budget(self.state_path, self.progress, options)
        self.prepared_optimizer = self.accelerator.prepare_optimizer(self.optimizer)
        self.loss_scale = 0.0
        self._restore_loss_scale()
        pictures = options.pictures_per_batch * options.accumulate * self.accelerator.num_processes
        self.speed = Speed(pictures)
        self.validation_batches: list[Any] = []

    def _distributed(self, network: nn.Module) -> nn.Module:
        """The network with autocast, under DDP or sharded; its parameters keep their names."""
        accelerator, sharding = self.accelerator, self.options.shard
        wrapped: nn.Module = accelerator.prepare_model(network, evaluation_mode=sharding != "none")
        if sharding == "none":
            return wrapped
        return shard(network, accelerator.device, accelerator.num_processes, keep_weights=sharding == "gradients")

    def _resumed(self) -> Progress:
        """Where the folder stands, with parameters, averages and optimiser as they are there. Raises ConfigError."""
        path, init = self.state_path, getattr(self.options, "init", None)
        progress = Progress()
        if path.exists():
            progress = load_state(path, self.parameters, self.ema.shadow_params, self.optimizer)
            self.ema.optimization_step = progress.step
        own = torch.tensor([progress.step], device=self.accelerator.device)
        if (self.accelerator.gather(own) != progress.step).any():
            raise ConfigError(f"{path}: not all processes see the same one; --out has to be on storage that all share")
        return dataclasses.replace(progress, init_sha256=require_same_init(path, progress, init))

    def _own_folder(self) -> None:
        """Raise OccupiedError if another process has trained here since this one looked."""
        if read_progress(self.state_path).step != self.progress.step:
            raise OccupiedError(
                f"{self.options.out}: another process has just trained here; run the same command again"
            )

    def run(self) -> int:
        """Train; returns the number of steps done in all. Ctrl-C saves before it stops, an error saves nothing."""
        accelerator, options = self.accelerator, self.options
        with ExitStack() as stack:
            stack.enter_context(lost_processes())
            stack.enter_context(lost_workers())
            log = None
            if accelerator.is_main_process:
                stack.enter_context(locked(options.out))
                self._own_folder()
                remove_partial_files(options.out)
                record = {name: str(value) for name, value in dataclasses.asdict(options).items()}
                log = RunLog(options.out, self.progress.step, options.tracker, record)
                stack.enter_context(closing(log))
            stop = stack.enter_context(StopSignal())
            make_batch = functools.partial(
                own_batch, self.stage.make_batch, accelerator.process_index, accelerator.num_processes
            )
            first, kind = self.progress.step * options.accumulate, options.workers_are
            batches = prefetch(make_batch, first, workers=options.workers, kind=kind)
            self._run_steps(stack.enter_context(closing(batches)), log, stop)
            self.save()
            accelerator.end_training()
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
            with self.speed.step():
                values = self._train_step(batches)
            now = time.monotonic()
            self.progress = dataclasses.replace(
                self.progress, step=self.progress.step + 1, minutes=before + (now - started) / 60
            )
            if budget and self._plan(budget):
                budget, saved = None, -math.inf  # saved at once: a resumed run must not plan anew
            self._report(log, values)
            last = self.progress.step >= self.scheduled.steps
            late = 0 < 60 * options.max_minutes <= now - started
            done, due = self._any_process(last or late or stop.received, now - saved >= 60 * options.save_minutes)
            if due and not done:
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

    def _any_process(self, *wishes: bool) -> list[bool]:
        """Which wishes one of the processes has: all stop, and save what is shared out, after the same step."""
        counts = self.accelerator.reduce(torch.tensor(wishes, dtype=torch.float32, device=self.accelerator.device))
        found: list[bool] = (counts > 0).tolist()
        return found

    def _train_step(self, batches: Iterator[Any]) -> dict[str, float]:
        """One optimiser step over `accumulate` micro-batches. Raises DivergedError, with the weights still good."""
        options, accelerator, step = self.scheduled, self.accelerator, self.progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = options.lr * lr_factor(step, options)
        totals: dict[str, Tensor] = {}
        for micro in range(options.accumulate):
            with self.speed.waiting():
                batch = next(batches)
            index = (step * options.accumulate + micro) * accelerator.num_processes + accelerator.process_index
            generator = noise_generator(options.seed, index, 0, accelerator.device)
            with accelerator.accumulate(self.network):
                # The backward pass as well: it may compute activations again, by the same kernels.
                with quick_attention(accelerator.device, accelerator.mixed_precision):
                    losses = self.network(to_device(batch, accelerator.device), generator)
                    accelerator.backward(losses["loss"])
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0.0) + value.detach().float() / options.accumulate
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.parameters.values(), options.clip_norm)
                    totals["gradient_norm"] = full_scalar(norm)
                    values = dict(zip(totals, torch.stack(list(totals.values())).tolist(), strict=True))
                    self._require_finite(values)
                self.prepared_optimizer.step()
                self.prepared_optimizer.zero_grad()
        self._keep_loss_scale()
        self.ema.step(self.parameters.values())
        return values

    def _require_finite(self, values: dict[str, float]) -> None:
        """A gradient that a loss scale has made too large is no harm: the scaler leaves the step out and is smaller."""
        scaler = self.accelerator.scaler
        for name in ("loss", "gradient_norm"):
            scaled = name == "gradient_norm" and scaler is not None and scaler.get_scale() > 1
            if not math.isfinite(values[name]) and not scaled:
                raise DivergedError(
                    f"{name} is {values[name]} at step {self.progress.step + 1}: training diverged; the last saved "
                    "state is kept, go on from it with a smaller --lr"
                )

    def _keep_loss_scale(self) -> None:
        if self.accelerator.scaler is not None:
            scale = self.accelerator.scaler.state_dict()
            skipped = scale["scale"] < self.loss_scale  # it shrinks after a step left out, and then alone
            self.loss_scale = scale["scale"]
            self.progress = dataclasses.replace(
                self.progress,
                skipped_steps=self.progress.skipped_steps + skipped,
                loss_scale=scale["scale"],
                scale_age=scale["_growth_tracker"],
            )

    def _restore_loss_scale(self) -> None:
        scaler, progress = self.accelerator.scaler, self.progress
        if scaler is None:
            return
        if progress.loss_scale:
            known = {"scale": progress.loss_scale, "_growth_tracker": progress.scale_age}
            scaler.load_state_dict({**scaler.state_dict(), **known})
        self.loss_scale = scaler.get_scale()

    def _report(self, log: RunLog | None, values: dict[str, float]) -> None:
        """Log, draw and measure what is due; all processes do, since a sharded network computes on all of them."""
        options, step = self.scheduled, self.progress.step
        drawing, measuring = (every > 0 and step % every == 0 for every in (options.grid_every, options.validate_every))
        measured: dict[str, float] = {}
        if drawing or measuring:
            with self.averaged_weights(), callable_parts(self.stage.network), self.accelerator.autocast():
                picture = self.stage.picture()
                if measuring:
                    source = self.stage.validation_source
                    measured = {f"{source}_{k}": v for k, v in {**self._validate(), "psnr": picture.psnr_db}.items()}
            if log and drawing:
                log.add_picture(step, picture.pixels.float().cpu())
        if step % options.log_every == 0 or step == options.steps or measuring:
            values = self._mean_of_processes({**values, **self.speed.take()})
            lr, memory = self.optimizer.param_groups[0]["lr"], peak_memory_gib(self.accelerator.device)
            total = "?" if options.steps == ENDLESS else str(options.steps)
            state = {"lr": lr, "minutes": self.progress.minutes, "peak_memory_gib": memory}
            if log:
                log.add_values(step, total, {**values, **measured, **state})

    def _validate(self) -> dict[str, float]:
        """Mean losses on the validation batches, with the same noise every time."""
        device, options = self.accelerator.device, self.options
        if not self.validation_batches:
            count = range(options.validation_batches)
            self.validation_batches = [self.stage.make_validation_batch(index) for index in count]
        totals: dict[str, float] = {}
        for index, batch in enumerate(self.validation_batches):
            generator = noise_generator(options.seed, index, VALIDATION_STREAM, device)
            with quick_attention(device, self.accelerator.mixed_precision):
                losses = self.stage.network(to_device(batch, device), generator)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value) / options.validation_batches
        return totals

    def _mean_of_processes(self, values: dict[str, float]) -> dict[str, float]:
        if self.accelerator.num_processes == 1:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(numbers, "mean").tolist(), strict=True))

    @contextmanager
    def averaged_weights(self) -> Generator[None]:
        """The network with its averaged weights, without gradients."""
        with torch.no_grad():
            self._swap_weights()
            try:
                yield
            finally:
                self._swap_weights()

    def _swap_weights(self) -> None:
        for parameter, average in zip(self.parameters.values(), self.ema.shadow_params, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)

    def save(self) -> None:
        """Resume state and exported checkpoint."""
        write = self.accelerator.is_main_process
        if not self.progress.step or not (write or self.options.shard != "none"):
            return
        save_state(self.state_path, self.progress, self.parameters, self.ema.shadow_params, self.optimizer, write)
        with self.averaged_weights(), whole_weights(self.stage.network, keep=write):
            if write:
                self.stage.export(self.progress)


def full_scalar(value: Tensor) -> Tensor:
    """A number that all processes know, of one that sharded tensors gave."""
    gathered: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return gathered
