"""Both training steps on a GPU, with what only a GPU has: fp16, 8-bit moments, compiled kernels, its own memory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from nvb_core.adapted import load_adapted
from training.options import RunOptions
from training.presets import PaperStep1, PaperStep2
from training.step1 import train as train_step1
from training.step2 import train as train_step2

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.usefixtures("accelerate_reset"),
]

STEPS = 30
SETTINGS: dict[str, Any] = {
    "split": "all",
    "tracker": "none",
    "grid_every": 0,
    "log_every": 1,
    "warmup_steps": 0,
    "ema_decay": 0.0,
    "workers": 2,
    "validate_every": 10,
}
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "step1": (PaperStep1, train_step1, {"batch_size": 4, "lr": 1e-2}),
    "step2": (PaperStep2, train_step2, {"batch_size": 2, "views": 4, "denoised_views": 4, "lr": 3e-3}),
}


def train(shrunken_sd: Any, out: Path, step: str, **changes: Any) -> list[dict[str, float]]:
    """The log of a run."""
    kind, run, settings = KINDS[step]
    places = {"data": (shrunken_sd.faces,), "base": shrunken_sd.base, "init": shrunken_sd.init}
    options: RunOptions = kind(**places, out=out, **{**SETTINGS, "steps": STEPS, **settings, **changes})
    assert run(options) == options.steps
    AcceleratorState._reset_state(reset_partial_state=True)
    return [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]


def require_learned(lines: list[dict[str, float]]) -> None:
    found = [line for line in lines if "fixed_loss" in line]
    assert found[-1]["fixed_loss"] < 0.9 * found[0]["fixed_loss"]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert lines[-1]["peak_memory_gib"] > 0


@pytest.mark.parametrize("step", KINDS)
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_learns_in_every_precision(shrunken_sd: Any, tmp_path: Path, step: str, precision: str) -> None:
    require_learned(train(shrunken_sd, tmp_path, step, precision=precision))
    load_adapted(tmp_path / "model.safetensors", shrunken_sd.base)


@pytest.mark.parametrize(
    "changes",
    [
        {"degrade_on": "device"},
        {"workers_are": "processes"},
        {"gradient_checkpointing": False, "half_base": False, "accumulate": 2},
    ],
    ids=["degraded there", "forked workers", "plain"],
)
@pytest.mark.parametrize("step", KINDS)
def test_learns_with_other_options(shrunken_sd: Any, tmp_path: Path, step: str, changes: dict[str, Any]) -> None:
    require_learned(train(shrunken_sd, tmp_path, step, **changes))


@pytest.mark.parametrize("step", KINDS)
def test_learns_with_8_bit_moments_and_resumes(shrunken_sd: Any, tmp_path: Path, step: str) -> None:
    pytest.importorskip("bitsandbytes")
    require_learned(train(shrunken_sd, tmp_path, step, optimizer="adamw8bit"))
    lines = train(shrunken_sd, tmp_path, step, optimizer="adamw8bit", steps=STEPS + 10)
    assert lines[-1]["fixed_loss"] < 1.1 * lines[STEPS - 1]["fixed_loss"]  # moments that were lost would undo it


def test_views_learn_by_muon(shrunken_sd: Any, tmp_path: Path) -> None:
    require_learned(train(shrunken_sd, tmp_path, "step2", optimizer="muon", denoised_views=0))


@pytest.mark.parametrize("step", KINDS)
def test_resumes_where_it_stopped(shrunken_sd: Any, tmp_path: Path, step: str) -> None:
    """A GPU sums in no fixed order, so that two runs agree up to rounding only."""
    whole = train(shrunken_sd, tmp_path / "whole", step, steps=12, decay_fraction=0.0)
    train(shrunken_sd, tmp_path / "parts", step, steps=6, decay_fraction=0.0)
    parts = train(shrunken_sd, tmp_path / "parts", step, steps=12, decay_fraction=0.0)
    assert [line["step"] for line in parts] == [line["step"] for line in whole]
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=0.05)


@pytest.mark.timeout(600)
def test_learns_compiled(shrunken_sd: Any, tmp_path: Path) -> None:
    require_learned(train(shrunken_sd, tmp_path, "step2", compile="inductor", gradient_checkpointing=False))
