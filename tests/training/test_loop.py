from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import Linear

from nvb_core.errors import ConfigError, OccupiedError, OutputError
from nvb_core.staging import locked
from training.launch import build_accelerator, process_index, resolve_precision
from training.loop import DivergedError, Picture, Trainer, noise_generator
from training.optimizers import lr_factor
from training.options import RunOptions
from training.state import Progress, read_progress

pytestmark = pytest.mark.usefixtures("accelerate_reset")

MACHINE = ("minutes", "step_seconds", "data_seconds", "pictures_per_second", "peak_memory_gib")
"""What the log says of the machine."""


@dataclass(frozen=True)
class Points:
    x: Tensor  # (B, 4)


class Line(nn.Module):
    """Squared distance of a linear map from a noisy target; `frozen` must never change."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map, self.frozen = Linear(4, 2), Linear(4, 2)
        self.frozen.requires_grad_(False)

    def forward(self, batch: Points, generator: torch.Generator) -> dict[str, Tensor]:
        target = self.frozen(batch.x) + 0.1 * torch.randn(len(batch.x), 2, generator=generator)
        loss = (self.map(batch.x) - target).square().mean()
        return {"loss": loss, "doubled": 2 * loss}


class LineStage:
    """A stage that takes no time; `before_batch` may misbehave."""

    def __init__(self, before_batch: Callable[[int], None] = lambda index: None) -> None:
        self.network = Line()
        self.before_batch = before_batch
        self.indices: list[int] = []
        self.exported: list[tuple[Progress, Tensor]] = []

    def make_batch(self, index: int) -> Points:
        self.before_batch(index)
        return Points(torch.randn(3, 4, generator=torch.Generator().manual_seed(index)))

    validation_source = "fixed"

    def make_validation_batch(self, index: int) -> Points:
        return Points(torch.randn(3, 4, generator=torch.Generator().manual_seed(1000 + index)))

    def picture(self) -> Picture:
        return Picture(torch.full((3, 8, 8), self.network.map.weight[0, 0].item()).clamp(-1, 1), psnr_db=12.5)

    def export(self, progress: Progress) -> None:
        self.exported.append((progress, self.network.map.weight.detach().clone()))


def options(out: Path, **changes: Any) -> RunOptions:
    settings: dict[str, Any] = {
        "steps": 8,
        "batch_size": 3,
        "lr": 0.05,
        "warmup_steps": 3,
        "log_every": 1,
        "grid_every": 0,
        "precision": "no",
    }
    return RunOptions(out=out, data=(Path("unused"),), **{**settings, **changes})


def curve(out: Path) -> list[dict[str, float]]:
    """Logged lines without times and memory."""
    lines = [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]
    assert all(set(MACHINE) <= line.keys() for line in lines)
    return [{k: v for k, v in line.items() if k not in MACHINE} for line in lines]


def press_ctrl_c_at(index: int) -> Callable[[int], None]:
    """Batches are made ahead, so the step that is interrupted is an earlier one."""
    return lambda current: os.kill(os.getpid(), signal.SIGINT) if current == index else None


class TestSchedule:
    def test_closed_form(self, tmp_path: Path) -> None:
        plan = options(tmp_path, steps=100, warmup_steps=9, decay_fraction=0.4)
        assert [lr_factor(s, plan) for s in (0, 4, 9, 59)] == pytest.approx([0.1, 0.5, 1, 1])
        assert lr_factor(60, plan) == pytest.approx(1)
        assert lr_factor(70, plan) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
        assert lr_factor(80, plan) == pytest.approx(0.5)
        assert lr_factor(99, plan) == pytest.approx(0.5 + 0.5 * math.cos(math.pi * 39 / 40))

    def test_no_decay_and_plain_cosine(self, tmp_path: Path) -> None:
        assert lr_factor(99, options(tmp_path, steps=100, warmup_steps=0, decay_fraction=0.0)) == 1
        plain = options(tmp_path, steps=100, warmup_steps=0, decay_fraction=1.0)
        assert [lr_factor(s, plain) for s in (0, 50)] == pytest.approx([1, 0.5])

    def test_warmup_goes_on_during_the_decay(self, tmp_path: Path) -> None:
        plan = options(tmp_path, steps=10, warmup_steps=99, decay_fraction=1.0)
        assert lr_factor(5, plan) == pytest.approx(0.06 * 0.5)


@pytest.mark.parametrize(
    ("asked", "gpu", "cpu", "expected"),
    [
        ("no", True, True, "no"),
        ("bf16", None, False, "bf16"),
        ("fp16", True, False, "fp16"),
        ("auto", None, True, "bf16"),
        ("auto", None, False, "no"),
        ("auto", True, False, "bf16"),
        ("auto", False, True, "no"),
    ],
)
def test_precision(asked: Any, gpu: bool | None, cpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: gpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve_precision(asked) == expected


def test_noise_differs_by_seed_index_and_rank() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    draws = [torch.rand(4, generator=noise_generator(*key, torch.device("cpu"))) for key in keys]
    again = torch.rand(4, generator=noise_generator(0, 1, 0, torch.device("cpu")))
    assert torch.equal(draws[2], again)
    assert len({tuple(d.tolist()) for d in draws}) == 4


def test_a_lone_process_is_the_first() -> None:
    assert process_index() == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_equals_a_plain_loop(tmp_path: Path, accumulate: int) -> None:
    plan = options(tmp_path, accumulate=accumulate, ema_decay=0.5, clip_norm=0.5)
    stage = LineStage()
    trainer = Trainer(stage, plan)
    assert trainer.run() == 8

    reference, source = Line(), LineStage()
    average = reference.map.weight.detach().clone()
    optimizer = torch.optim.AdamW(reference.map.parameters(), lr=1, betas=plan.betas, weight_decay=plan.weight_decay)
    losses = []
    for step in range(8):
        optimizer.param_groups[0]["lr"] = plan.lr * lr_factor(step, plan)
        optimizer.zero_grad()
        total = torch.zeros(())
        for index in range(step * accumulate, (step + 1) * accumulate):
            noise = noise_generator(plan.seed, index, 0, torch.device("cpu"))
            total = total + reference(source.make_batch(index), noise)["loss"] / accumulate
        total.backward()
        torch.nn.utils.clip_grad_norm_(reference.map.parameters(), plan.clip_norm)
        optimizer.step()
        losses.append(total.item())
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0  # diffusers' EMA starts at the first weights
        average = decay * average + (1 - decay) * reference.map.weight.detach()

    assert [line["loss"] for line in curve(tmp_path)] == pytest.approx(losses, rel=1e-5)
    assert [line["doubled"] for line in curve(tmp_path)] == pytest.approx([2 * v for v in losses], rel=1e-5)
    torch.testing.assert_close(stage.network.map.weight, reference.map.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stage.exported[-1][1], average, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(average, reference.map.weight, atol=1e-4), "the average must be told from the weights"
    assert torch.equal(stage.network.frozen.weight, reference.frozen.weight)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ctrl_c_saves_and_the_resumed_run_goes_on_exactly(tmp_path: Path, accumulate: int) -> None:
    whole = LineStage()
    Trainer(whole, options(tmp_path / "whole", accumulate=accumulate)).run()
    stage = LineStage(press_ctrl_c_at(4 * accumulate))
    with pytest.raises(KeyboardInterrupt):
        Trainer(stage, options(tmp_path / "parts", accumulate=accumulate)).run()
    stopped = read_progress(tmp_path / "parts" / "state.safetensors")
    assert 0 < stopped.step < 8
    assert stage.exported[-1][0] == stopped

    resumed = LineStage()
    Trainer(resumed, options(tmp_path / "parts", accumulate=accumulate)).run()
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert torch.equal(resumed.network.map.weight, whole.network.map.weight)
    assert torch.equal(resumed.exported[-1][1], whole.exported[-1][1])
    final = read_progress(tmp_path / "parts" / "state.safetensors")
    assert final.step == 8
    assert final.minutes > stopped.minutes > 0


def test_more_steps_go_on_from_a_finished_run(tmp_path: Path) -> None:
    Trainer(LineStage(), options(tmp_path, steps=4)).run()
    assert Trainer(LineStage(), options(tmp_path, steps=6)).run() == 6
    assert [line["step"] for line in curve(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_only_exports_again(tmp_path: Path) -> None:
    Trainer(LineStage(), options(tmp_path)).run()
    before = load_file(tmp_path / "state.safetensors")
    again = LineStage()
    assert Trainer(again, options(tmp_path)).run() == 8
    after = load_file(tmp_path / "state.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert len(again.exported) == 1


def test_a_folder_has_one_training_at_a_time(tmp_path: Path) -> None:
    late = Trainer(LineStage(), options(tmp_path))
    with locked(tmp_path), pytest.raises(OccupiedError, match="another nvb-face is writing here"):
        Trainer(LineStage(), options(tmp_path)).run()
    Trainer(LineStage(), options(tmp_path)).run()
    with pytest.raises(OccupiedError, match="another process has just trained here; run the same command again"):
        late.run()
    assert [line["step"] for line in curve(tmp_path)] == list(range(1, 9))


def test_a_run_goes_on_only_from_the_weights_that_it_started_from(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class FromInit(RunOptions):
        init: Path | None = None

    init, values = tmp_path / "init.safetensors", {"data": (Path("unused"),), "batch_size": 3, "lr": 0.05}

    def run(steps: int, out: str = "run") -> int:
        started = FromInit(out=tmp_path / out, steps=steps, precision="no", grid_every=0, init=init, **values)
        return Trainer(LineStage(), started).run()

    save_file({"x": torch.zeros(3)}, init)
    assert run(2) == 2
    save_file({"x": torch.zeros(3)}, init, metadata={"told": "otherwise"})
    assert run(3) == 3
    save_file({"x": torch.ones(3)}, init)
    with pytest.raises(ConfigError, match=r"state\.safetensors: this run started from another .*init\.safetensors"):
        run(4)
    assert run(4, "another") == 4
    assert read_progress(tmp_path / "run" / "state.safetensors").init_sha256 == hashlib.sha256(bytes(12)).hexdigest()


def test_processes_have_to_see_the_same_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trainer(LineStage(), options(tmp_path, steps=4)).run()
    monkeypatch.setattr(Accelerator, "gather", lambda _, own: torch.cat([own, torch.zeros_like(own)]))
    with pytest.raises(ConfigError, match=r"not all processes see the same one; --out has to be on storage that all"):
        Trainer(LineStage(), options(tmp_path))


def test_zero_save_minutes_saves_every_step(tmp_path: Path) -> None:
    often, seldom = LineStage(), LineStage()
    Trainer(often, options(tmp_path / "often", save_minutes=0)).run()
    Trainer(seldom, options(tmp_path / "seldom")).run()
    assert [progress.step for progress, _ in often.exported] == list(range(1, 9))
    assert [progress.step for progress, _ in seldom.exported] == [8]


def test_max_minutes_stops_with_everything_saved(tmp_path: Path) -> None:
    stage = LineStage()
    steps = Trainer(stage, options(tmp_path, steps=10**6, max_minutes=1e-6)).run()
    assert steps == 1
    assert read_progress(tmp_path / "state.safetensors").step == 1
    assert stage.exported[-1][0].step == 1


def test_log_every_and_the_last_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Trainer(LineStage(), options(tmp_path, log_every=3)).run()
    assert [line["step"] for line in curve(tmp_path)] == [3, 6, 8]
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["3/8", "6/8", "8/8"]


def test_pictures_and_tensorboard(tmp_path: Path) -> None:
    stage = LineStage()
    Trainer(stage, options(tmp_path, grid_every=4)).run()
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["0000004.png", "0000008.png"]
    with Image.open(tmp_path / "pictures" / "0000008.png") as picture:
        assert picture.size == (8, 8)
        averaged = stage.exported[-1][1][0, 0].item()
        assert picture.getpixel((0, 0)) == (round((averaged + 1) * 127.5),) * 3
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"gradient_norm" in events.read_bytes()


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(self: Image.Image, path: Path, **rest: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OutputError, match=r"0000002\.png: can't be written"):
        Trainer(LineStage(), options(tmp_path, grid_every=2)).run()
    assert not list((tmp_path / "pictures").iterdir())


def test_divergence_keeps_the_last_good_state(tmp_path: Path) -> None:
    stage = LineStage()
    trainer = Trainer(stage, options(tmp_path, save_minutes=0))
    good = stage.make_batch

    def make_batch(index: int) -> Points:
        return Points(good(index).x * (math.nan if index == 5 else 1))

    stage.make_batch = make_batch  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=r"loss is nan at step 6: .*smaller --lr"):
        trainer.run()
    assert read_progress(tmp_path / "state.safetensors").step == 5
    assert all(value.isfinite().all() for value in load_file(tmp_path / "state.safetensors").values())
    assert [progress.step for progress, _ in stage.exported] == [1, 2, 3, 4, 5]
    assert Trainer(LineStage(), options(tmp_path)).run() == 8


def test_a_finite_loss_with_an_infinite_gradient_diverged_too(tmp_path: Path) -> None:
    stage = LineStage()
    stage.network.map.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(DivergedError, match="gradient_norm is inf at step 1"):
        Trainer(stage, options(tmp_path)).run()
    assert stage.network.map.weight.isfinite().all()
    assert not stage.exported


def test_an_error_in_a_batch_saves_nothing_and_ends_the_worker(tmp_path: Path) -> None:
    def fail(index: int) -> None:
        if index == 2:
            raise ConfigError("bad picture")

    stage = LineStage(fail)
    with pytest.raises(ConfigError, match="bad picture"):
        Trainer(stage, options(tmp_path)).run()
    assert not (tmp_path / "state.safetensors").exists()
    assert not stage.exported


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors.1.partial").write_text("half")
    Trainer(LineStage(), options(tmp_path)).run()
    assert not list(tmp_path.glob("*.partial"))


class TestMeasuring:
    def test_averages_of_the_same_batches_with_the_same_noise(self, tmp_path: Path) -> None:
        stage = LineStage()
        trainer = Trainer(stage, options(tmp_path, validate_every=4, validation_batches=2, log_every=8))
        trainer.run()
        half, end = curve(tmp_path)
        assert [line["step"] for line in (half, end)] == [4, 8]
        assert half["fixed_psnr"] == 12.5
        assert half["fixed_loss"] != end["fixed_loss"]
        with trainer.averaged_weights():
            losses = [
                stage.network(stage.make_validation_batch(i), noise_generator(0, i, 1, torch.device("cpu")))["loss"]
                for i in range(2)
            ]
        assert end["fixed_loss"] == pytest.approx(sum(losses).item() / 2, rel=1e-6)
        assert end["fixed_doubled"] == pytest.approx(2 * end["fixed_loss"])

    def test_changes_nothing(self, tmp_path: Path) -> None:
        plain, measured = LineStage(), LineStage()
        Trainer(plain, options(tmp_path / "plain")).run()
        Trainer(measured, options(tmp_path / "measured", validate_every=1, grid_every=3)).run()
        assert torch.equal(plain.network.map.weight, measured.network.map.weight)
        assert torch.equal(plain.exported[-1][1], measured.exported[-1][1])

    def test_is_named_after_where_its_faces_come_from(self, tmp_path: Path) -> None:
        stage = LineStage()
        stage.validation_source = "val"
        Trainer(stage, options(tmp_path, steps=1, validate_every=1)).run()
        assert {"val_loss", "val_doubled", "val_psnr"} <= curve(tmp_path)[0].keys()


class TestLossScale:
    """As with fp16 on a GPU, by torch's scaler for CPUs."""

    @pytest.fixture(autouse=True)
    def scaled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def build(plan: RunOptions) -> Accelerator:
            accelerator = build_accelerator(plan)
            accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18, growth_interval=3)
            return accelerator

        monkeypatch.setattr("training.loop.build_accelerator", build)

    def test_too_large_a_scale_skips_steps_and_trains_on(self, tmp_path: Path) -> None:
        stage = LineStage()
        Trainer(stage, options(tmp_path, steps=12)).run()
        progress = read_progress(tmp_path / "state.safetensors")
        assert 0 < progress.skipped_steps < 8
        assert 1 < progress.loss_scale < 2.0**18
        assert not math.isfinite(curve(tmp_path)[0]["gradient_norm"])
        assert not torch.equal(stage.network.map.weight, Line().map.weight)

    def test_resumes_exactly(self, tmp_path: Path) -> None:
        whole, parts = LineStage(), LineStage()
        Trainer(whole, options(tmp_path / "whole", steps=12, decay_fraction=0.0)).run()
        for steps in (3, 7, 12):
            AcceleratorState._reset_state(reset_partial_state=True)
            parts = LineStage()
            Trainer(parts, options(tmp_path / "parts", steps=steps, decay_fraction=0.0)).run()
        assert torch.equal(whole.network.map.weight, parts.network.map.weight)
        first, second = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
        assert all(torch.equal(first[name], second[name]) for name in first)
        states = [read_progress(tmp_path / name / "state.safetensors") for name in ("whole", "parts")]
        assert len({(p.step, p.skipped_steps, p.loss_scale, p.scale_age) for p in states}) == 1

    def test_a_gradient_that_stays_infinite_diverged(self, tmp_path: Path) -> None:
        stage = LineStage()
        stage.network.map.weight.register_hook(lambda gradient: gradient * math.inf)
        with pytest.raises(DivergedError, match="gradient_norm is"):
            Trainer(stage, options(tmp_path, steps=100)).run()
        assert stage.network.map.weight.isfinite().all()


@pytest.fixture
def steps_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop looks at its clock once per step."""
    seconds = itertools.count(1000.0)
    monkeypatch.setattr("training.loop.time", SimpleNamespace(monotonic=lambda: next(seconds)))


@pytest.mark.usefixtures("steps_of_a_second")
class TestTimeBudget:
    def test_sets_the_steps_and_ends_the_decay_with_them(self, tmp_path: Path) -> None:
        plan = options(tmp_path, steps=1, warmup_steps=30, budget_minutes=1.0)
        assert Trainer(LineStage(), plan).run() == 60
        assert read_progress(tmp_path / "state.safetensors") == Progress(60, 1.0, 60, 1.0)
        rates = [line["lr"] / plan.lr for line in curve(tmp_path)]
        assert rates[19] == pytest.approx(20 / 31)  # the speed isn't known yet
        assert rates[20:36] == pytest.approx([1.0] * 16)  # warm-up is at most a tenth of the steps
        assert rates[59] == pytest.approx(0.5 + 0.5 * math.cos(math.pi * 23 / 24))

    def test_a_resumed_run_keeps_the_plan_and_the_curve(self, tmp_path: Path) -> None:
        Trainer(LineStage(), options(tmp_path / "whole", budget_minutes=1.0)).run()
        plan = options(tmp_path / "parts", budget_minutes=1.0)
        with pytest.raises(KeyboardInterrupt):
            Trainer(LineStage(press_ctrl_c_at(24)), plan).run()
        stopped = read_progress(tmp_path / "parts" / "state.safetensors")
        assert stopped.planned_steps == 60 > stopped.step >= 20
        assert Trainer(LineStage(), plan).run() == 60
        assert curve(tmp_path / "parts") == curve(tmp_path / "whole")

    def test_the_plan_is_saved_when_it_is_made(self, tmp_path: Path) -> None:
        stage = LineStage()
        Trainer(stage, options(tmp_path, budget_minutes=1.0)).run()
        assert [(p.step, p.planned_steps) for p, _ in stage.exported] == [(20, 60), (60, 60)]

    def test_an_interruption_before_the_plan_plans_later(self, tmp_path: Path) -> None:
        plan = options(tmp_path, budget_minutes=1.0)
        with pytest.raises(KeyboardInterrupt):
            Trainer(LineStage(press_ctrl_c_at(6)), plan).run()
        assert read_progress(tmp_path / "state.safetensors").planned_steps == 0
        assert Trainer(LineStage(), plan).run() == 60

    def test_a_budget_shorter_than_the_timing_is_kept(self, tmp_path: Path) -> None:
        assert Trainer(LineStage(), options(tmp_path, budget_minutes=0.1)).run() == 6

    def test_another_budget_is_refused(self, tmp_path: Path) -> None:
        Trainer(LineStage(), options(tmp_path, budget_minutes=0.1)).run()
        with pytest.raises(ConfigError, match=r"planned for 0\.1 minutes, not 1; keep to that or use another --out"):
            Trainer(LineStage(), options(tmp_path, budget_minutes=1.0))
