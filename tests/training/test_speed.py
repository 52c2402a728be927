from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from training.speed import Speed, peak_memory_gib


def test_means_since_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("training.speed.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def step(speed: Speed, waited: float, computed: float) -> None:
        with speed.step():
            with speed.waiting():
                clock[0] += waited
            clock[0] += computed

    speed = Speed(pictures_per_step=12)
    step(speed, 1.0, 2.0)
    clock[0] += 100  # a picture is drawn
    step(speed, 0.0, 1.0)
    assert speed.take() == {"step_seconds": 1.5, "data_seconds": 0.5, "pictures_per_second": 24 / 4}
    step(speed, 0.5, 1.5)
    assert speed.take() == {"step_seconds": 1.5, "data_seconds": 0.5, "pictures_per_second": 12 / 2}


def test_peak_memory_grows_with_what_is_used() -> None:
    before = peak_memory_gib(torch.device("cpu"))
    assert 0.05 < before < 24
    held = torch.ones(int((before + 0.1) * 2**28))  # more than anything so far, in GiB of float32
    assert peak_memory_gib(torch.device("cpu")) > before
    del held
