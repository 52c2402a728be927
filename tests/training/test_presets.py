from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from training.command import run_command
from training.options import RunOptions, Step1Options, Step2Options, VAEOptions
from training.presets import PRESETS

ARGV = ["--out", "runs/x", "--data", "data/heads", "--init", "model.safetensors"]


def parsed(monkeypatch: pytest.MonkeyPatch, kind: type[Any], *argv: str) -> RunOptions:
    seen: list[RunOptions] = []
    monkeypatch.setattr(sys, "argv", ["training", *ARGV, *argv])
    assert run_command(kind, seen.append, "training.step") == 0
    return seen[0]


@pytest.mark.parametrize("base", ["sd21", "sd15"])
def test_step1_has_the_papers_values(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    options = parsed(monkeypatch, Step1Options, "--preset", f"{base}-step1")
    assert isinstance(options, Step1Options)
    assert (options.preset, options.steps, options.lr, options.batch_size) == (f"{base}-step1", 200_000, 5e-5, 8)
    assert (options.latent_weight, options.camera_weight) == (0, 0)


@pytest.mark.parametrize("base", ["sd21", "sd15"])
def test_step2_has_the_papers_values(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    options = parsed(monkeypatch, Step2Options, f"--preset={base}-step2")
    assert isinstance(options, Step2Options)
    assert (options.preset, options.steps, options.batch_size) == (f"{base}-step2", 300_000, 2)
    assert (options.views, options.denoised_views, options.pictures_per_batch) == (7, 7, 14)


def test_given_options_win_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    options = parsed(monkeypatch, Step1Options, "--batch-size", "1", "--preset", "sd21-step1", "--lr", "0.001")
    assert (options.batch_size, options.lr, options.steps) == (1, 1e-3, 200_000)
    assert not parsed(
        monkeypatch, Step1Options, "--preset", "sd21-step1", "--no-gradient-checkpointing"
    ).gradient_checkpointing


def test_without_a_preset_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"out": Path("runs/x"), "data": (Path("data/heads"),), "init": Path("model.safetensors")}
    assert parsed(monkeypatch, Step1Options) == Step1Options(**expected)
    assert parsed(monkeypatch, Step2Options, "--preset", "none") == Step2Options(**expected)


def test_the_autoencoders_preset_is_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(monkeypatch, VAEOptions, "--preset", "mini") == parsed(monkeypatch, VAEOptions)


@pytest.mark.parametrize("name", [["sd21-step2"], ["sd21"]])
def test_presets_of_another_step_are_refused_with_the_choices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: list[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parsed(monkeypatch, Step1Options, "--preset", *name)
    assert exit_.value.code == 2
    assert "sd21-step1" in capsys.readouterr().err


def test_every_preset_is_found_under_its_own_name() -> None:
    fields: dict[str, Any] = {"out": Path("x"), "data": (Path("y"),), "init": Path("z")}
    assert {name: kind(**fields).preset for name, kind in PRESETS.items()} == {name: name for name in PRESETS}
