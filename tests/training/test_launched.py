"""Two processes on CPUs (gloo): the same training as in one, whatever is shared out, killed and resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from nvb_core.errors import CheckpointError
from training.options import Step1Options
from training.state import read_progress
from training.step1 import train

pytestmark = pytest.mark.usefixtures("accelerate_reset")

SCRIPT = Path(__file__).with_name("launched.py")
STATE, MODEL = "state.safetensors", "model.safetensors"
Job = Callable[..., Step1Options]


@pytest.fixture
def job(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> Job:
    def make(name: str, **changes: Any) -> Step1Options:
        settings: dict[str, Any] = {"steps": 3, "batch_size": 2, "lr": 1e-3, "warmup_steps": 0, "log_every": 1}
        settings |= {"grid_every": 0, "precision": "no", "tracker": "none", "ema_decay": 0.5}
        return Step1Options(out=tmp_path / name, data=(faces,), init=tiny_checkpoint, **{**settings, **changes})

    return make


@contextmanager
def launched(options: Step1Options, clock_rate: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes, killed in the end if need be; for the second time passes so many times as fast."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(SCRIPT.parents[2])}
    text, rates = json.dumps(dataclasses.asdict(options), default=str), (1, clock_rate)
    running = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), text],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "CLOCK_RATE": str(rates[rank])},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def run_both(options: Step1Options, clock_rate: int = 1) -> None:
    with launched(options, clock_rate) as running:
        errors = [process.communicate(timeout=120)[1] for process in running]
        assert [process.returncode for process in running] == [0, 0], "\n".join(errors)


def assert_same(one: Path, other: Path, tolerance: float = 0.0) -> None:
    for file in (STATE, MODEL):
        first, second = load_file(one / file), load_file(other / file)
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            difference = (second[name] - tensor).abs().max().item()
            assert difference <= tolerance, f"{file}: {name} differs by {difference}"


def measured(folder: Path) -> dict[str, float]:
    """What was measured at step 3."""
    line = json.loads((folder / "loss.jsonl").read_text().splitlines()[2])
    return {key: line[key] for key in ("loss", "gradient_norm", "fixed_loss", "fixed_psnr")}


def wait_for_step(options: Step1Options, step: int) -> None:
    deadline = time.monotonic() + 120
    while saved_step(options) < step:
        assert time.monotonic() < deadline, "no step was saved"
        time.sleep(0.05)


def saved_step(options: Step1Options) -> int:
    try:
        return read_progress(options.out / STATE).step
    except (RuntimeError, CheckpointError):  # replaced by the next one while it is read
        return 0


MEASURING = {"grid_every": 2, "validate_every": 3}


@pytest.fixture
def one(job: Job) -> Path:
    """A run in one process of twice the micro-batches."""
    options = job("one", accumulate=2, **MEASURING)
    train(options)
    start, end = load_file(options.init), load_file(options.out / MODEL)
    assert any((start[name] - tensor).abs().max() > 1e-3 for name, tensor in end.items())
    AcceleratorState._reset_state(reset_partial_state=True)
    return options.out


def test_two_processes_train_as_one_does(job: Job, one: Path) -> None:
    both = job("both", **MEASURING)
    run_both(both)
    assert_same(one, both.out, 1e-5)
    assert measured(both.out) == pytest.approx(measured(one), rel=1e-4)


def test_shared_out_weights_train_as_whole_ones_do(job: Job, one: Path) -> None:
    """The first steps with weights shared out, the next with gradients, the last one in one process."""
    run_both(job("parts", shard="parameters", steps=2, decay_fraction=0.0, **MEASURING))
    run_both(job("parts", shard="gradients", **MEASURING))
    assert_same(one, job("parts").out, 1e-5)
    assert measured(job("parts").out) == pytest.approx(measured(one), rel=1e-4)


def test_both_save_when_one_finds_it_due(job: Job, one: Path) -> None:
    """Weights are gathered to be saved: with one process at that and the other in its next step, both would hang."""
    early = job("early", shard="parameters", save_minutes=5, **MEASURING)
    run_both(early, clock_rate=100_000)
    assert_same(one, early.out, 1e-5)


def test_killed_processes_resume_exactly(job: Job) -> None:
    """kill -9 of one process ends the other with one clear error; both go on to where they would have come."""
    whole, parts = job("whole", steps=8), job("parts", steps=8, save_minutes=0)
    with launched(dataclasses.replace(parts, steps=10**6)) as running:
        wait_for_step(parts, 2)
        os.kill(running[1].pid, signal.SIGKILL)
        error = running[0].communicate(timeout=60)[1]
        assert running[0].returncode == 2, error
        assert "error: another process of this launch has ended" in error
        assert "Traceback" not in error
    with launched(dataclasses.replace(parts, steps=10**6)) as running:
        wait_for_step(parts, 4)
        for process in running:
            os.kill(process.pid, signal.SIGKILL)
    assert {path.suffix for path in parts.out.iterdir()} <= {".safetensors", ".jsonl", ".partial"}
    run_both(whole)
    run_both(parts)
    assert_same(whole.out, parts.out)
