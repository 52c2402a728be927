from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate.state import PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nvb_core.errors import ConfigError
from training.log import RunLog, check_tracker, wandb_run

pytestmark = pytest.mark.usefixtures("accelerate_reset")


@pytest.fixture(autouse=True)
def launched() -> None:
    PartialState(cpu=True)


def write(out: Path, resumed: int, *steps: int) -> None:
    log = RunLog(out, resumed)
    for step in steps:
        log.add_values(step, "9", {"loss": step / 2})
    log.add_picture(steps[-1], torch.zeros(3, 8, 8))
    log.close()


def test_tensorboard_goes_on_from_the_resumed_step(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2, 3, 4)
    time.sleep(1.1)  # files of one second are read in the order of their numbers as text: 10 before 9
    write(tmp_path, 2, 3)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert [event.step for event in events.Images("picture")] == [3]


def test_no_tracker_leaves_only_files_of_our_own(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, "none")
    log.add_values(1, "9", {"loss": 0.5})
    log.add_picture(1, torch.zeros(3, 8, 8))
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.jsonl", "pictures"]


def test_a_tracker_that_is_not_installed_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.log.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="logging to wandb needs its package; pip install wandb, or"):
        check_tracker("wandb")
    check_tracker("none")


def test_weights_and_biases_gets_values_pictures_and_the_same_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate's tracker, with a stand-in for the package."""
    calls: list[tuple[str, Any]] = []

    class Run:
        def log(self, values: dict[str, Any], step: int) -> None:
            calls.append(("log", (step, values)))

        def finish(self) -> None:
            calls.append(("finish", None))

    def init(**settings: Any) -> Run:
        calls.append(("init", settings))
        return Run()

    wandb = ModuleType("wandb")
    wandb.init, wandb.Image = init, lambda image: image.shape  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("training.log.find_spec", lambda name: object())
    for resumed in (0, 5):
        log = RunLog(tmp_path, resumed, "wandb", {"lr": "0.1"})
        log.add_values(resumed + 1, "9", {"loss": 0.5})
        log.add_picture(resumed + 1, torch.zeros(3, 8, 16))
        log.close()
    assert [name for name, _ in calls] == ["init", "log", "log", "finish"] * 2
    first, again = calls[0][1], calls[4][1]
    assert first["id"] == again["id"]
    assert (first["project"], first["resume"], first["config"]) == ("nvb-face", "allow", {"lr": "0.1"})
    assert calls[1][1] == (1, {"loss": 0.5})
    assert calls[2][1] == (1, {"picture": [(8, 16, 3)]})
    assert wandb_run(tmp_path, 0) != first["id"]
