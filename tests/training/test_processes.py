"""Two processes on CPUs (gloo): the same training as in one, whatever is shared out, killed and resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

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
def launched(*jobs: Step1Options) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes, killed in the end if need be."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(SCRIPT.parents[2])}
    texts = [json.dumps(dataclasses.asdict(options), default=str) for options in jobs]
    running = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *texts],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
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


def run_both(*jobs: Step1Options) -> None:
    with launched(*jobs) as running:
        errors = [process.communicate(timeout=200)[1] for process in running]
        assert [process.returncode for process in running] == [0, 0], "\n".join(errors)


def assert_same(one: Path, other: Path, tolerance: float = 0.0) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            second[name], tensor, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def wait_for_step(options: Step1Options, step: int) -> None:
    deadline = time.monotonic() + 120
    while read_progress(options.out / STATE).step < step:
        assert time.monotonic() < deadline, "no step was saved"
        time.sleep(0.05)


def test_two_processes_train_as_one_does(job: Job) -> None:
    """DDP, weights shared out and gradients shared out equal one process with twice the micro-batches."""
    train(job("one", accumulate=2, grid_every=2, validate_every=3))
    plain, weights = job("ddp", grid_every=2, validate_every=3), job("weights", shard="parameters", steps=2)
    run_both(
        plain,
        weights,
        job("weights", shard="parameters", grid_every=2, validate_every=3),
        job("gradients", shard="gradients"),
        job("mixed", shard="gradients", steps=2),
    )
    for name in ("ddp", "weights", "gradients"):
        folder = plain.out.parent / name
        assert_same(plain.out.parent / "one" / STATE, folder / STATE, 1e-5)
        assert_same(plain.out.parent / "one" / MODEL, folder / MODEL, 1e-5)
    start = load_file(plain.init)
    assert any((start[name] - tensor).abs().max() > 1e-3 for name, tensor in load_file(plain.out / MODEL).items())
    lines = [
        json.loads((plain.out.parent / name / "loss.jsonl").read_text().splitlines()[2]) for name in ("one", "weights")
    ]
    for key in ("loss", "gradient_norm", "fixed_loss", "fixed_psnr"):
        assert lines[1][key] == pytest.approx(lines[0][key], rel=1e-4), key
    # A run goes on without sharding, in one process.
    assert train(job("mixed", accumulate=2)) == 3
    assert_same(plain.out.parent / "one" / STATE, plain.out.parent / "mixed" / STATE, 1e-5)
