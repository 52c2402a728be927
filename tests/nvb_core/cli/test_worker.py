from __future__ import annotations

import pytest
import torch

from nvb_core.cli.worker import Worker, choose_dtype, join_launch
from nvb_core.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert join_launch("auto") == Worker(0, 1, CPU)
    join_launch("auto").wait_for_all()


def test_the_first_process_goes_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda: events.append("barrier"))
    for index in (0, 1):
        with Worker(index, 2, CPU).first_alone():
            events.append(f"work of {index}")
    assert events == ["work of 0", "barrier", "barrier", "work of 1"]
    with Worker(0, 1, CPU).first_alone():
        events.append("alone")
    assert events[4:] == ["alone"]


def test_auto_takes_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert join_launch("auto").device == CUDA
    assert join_launch("cpu").device == CPU


def test_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cuda"):
        join_launch("cuda")


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_dtype_on_a_gpu(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert choose_dtype("auto", CUDA) == expected
    assert choose_dtype("fp32", CUDA) == torch.float32


def test_dtype_on_a_cpu() -> None:
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(ConfigError, match="--dtype fp16 needs a GPU"):
        choose_dtype("fp16", CPU)
