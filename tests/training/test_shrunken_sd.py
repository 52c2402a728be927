"""Both steps of the paper's settings, from Stable Diffusion's topology with few channels, to falling losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from nvb_core.adapted import load_adapted
from training.options import RunOptions
from training.presets import PaperStep1, PaperStep2
from training.step1 import train as train_step1
from training.step2 import train as train_step2

pytestmark = pytest.mark.usefixtures("accelerate_reset")

FEWER: dict[str, Any] = {
    "split": "all",
    "precision": "no",
    "tracker": "none",
    "grid_every": 0,
    "warmup_steps": 0,
    "ema_decay": 0.0,
    "workers": 1,
}


def measured(options: RunOptions) -> tuple[dict[str, float], dict[str, float]]:
    """What the first and the last measurement said."""
    lines = [json.loads(line) for line in (options.out / "loss.jsonl").read_text().splitlines()]
    found = [line for line in lines if "fixed_loss" in line]
    return found[0], found[-1]


def test_both_steps_learn_and_leave_the_base_alone(tmp_path: Path, shrunken_sd: Any) -> None:
    places = {"data": (shrunken_sd.faces,), "base": shrunken_sd.base}
    step1 = PaperStep1(
        **places,
        init=shrunken_sd.init,
        out=tmp_path / "step1",
        **{**FEWER, "steps": 30, "batch_size": 4, "lr": 1e-2, "validate_every": 10},
    )
    assert train_step1(step1) == 30
    before, after = measured(step1)
    assert after["fixed_diffusion"] < 0.9 * before["fixed_diffusion"]
    AcceleratorState._reset_state(reset_partial_state=True)

    model = step1.out / "model.safetensors"
    step2 = PaperStep2(
        **places,
        init=model,
        out=tmp_path / "step2",
        **{
            **FEWER,
            "steps": 30,
            "precision": "bf16",
            "batch_size": 2,
            "views": 4,
            "denoised_views": 4,
            "lr": 3e-3,
            "validate_every": 10,
        },
    )
    assert train_step2(step2) == 30
    before, after = measured(step2)
    for name in ("fixed_loss", "fixed_feature", "fixed_cosine"):
        assert after[name] < 0.9 * before[name], name

    start, restored, views = (load_file(path) for path in (shrunken_sd.init, model, step2.out / "model.safetensors"))
    assert start.keys() == restored.keys() == views.keys()
    trained = {name.split(".")[0] for name in start if not start[name].equal(restored[name])}
    assert trained == {"encoder", "context", "unet"}
    assert {name.split(".")[0] for name in start if not restored[name].equal(views[name])} == {"view"}
    load_adapted(step2.out / "model.safetensors", shrunken_sd.base)
