from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from nvb_core.errors import ConfigError
from training.launch import LostProcessError, build_accelerator, lost_processes, resolve_precision
from training.options import RunOptions, Step2Options, VAEOptions

pytestmark = pytest.mark.usefixtures("accelerate_reset")


def options(**changes: Any) -> RunOptions:
    settings = {"steps": 1, "batch_size": 1, "lr": 0.1, "precision": "no"}
    return RunOptions(out=Path("x"), data=(Path("y"),), **{**settings, **changes})  # type: ignore[arg-type]


def test_fp16_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"fp16 needs a GPU.*use --precision bf16 or no"):
        resolve_precision("fp16")


def test_accelerates_own_accumulation_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    accelerator = build_accelerator(options(accumulate=3))
    assert (accelerator.gradient_accumulation_steps, accelerator.mixed_precision) == (3, "no")


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_accelerates_own_sharding_is_refused_with_ours(monkeypatch: pytest.MonkeyPatch, kind: DistributedType) -> None:
    monkeypatch.setattr(Accelerator, "distributed_type", kind)
    with pytest.raises(ConfigError, match=f"configured for {kind.value}.*--shard parameters .*--shard gradients"):
        build_accelerator(options())


def test_sharding_needs_several_processes() -> None:
    with pytest.raises(ConfigError, match="there is only one; leave it out"):
        build_accelerator(options(shard="parameters"))


@pytest.mark.parametrize(("name", "value"), [("precision", "bf16"), ("optimizer", "muon")])
def test_sharding_with_several_processes(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    plan = options(shard="gradients", **{name: value})
    if value == "muon":
        with pytest.raises(ConfigError, match="--optimizer adamw only, not muon"):
            build_accelerator(plan)
    else:
        assert build_accelerator(plan).mixed_precision == "bf16"


@pytest.mark.parametrize("changes", [{"optimizer": "muon"}, {"shard": "gradients"}])
def test_the_loss_scale_of_fp16_does_not_go_with_everything(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(ConfigError, match="loss scale of --precision fp16; use"):
        build_accelerator(options(precision="fp16", **changes))


def test_only_step_1_is_sharded() -> None:
    with pytest.raises(ConfigError, match="shard gradients is for step 1"):
        VAEOptions(out=Path("x"), data=(Path("y"),), shard="gradients")
    with pytest.raises(ConfigError, match="shard parameters is for step 1"):
        Step2Options(out=Path("x"), data=(Path("y"),), init=Path("z"), shard="parameters")


def test_a_lost_process_is_one_error_and_other_errors_stay() -> None:
    for error in (
        RuntimeError("[gloo/transport/tcp/pair.cc:547]\nConnection closed"),
        torch.distributed.DistError("x"),
    ):
        with pytest.raises(LostProcessError, match="another process of this launch has ended"), lost_processes():
            raise error
    with pytest.raises(RuntimeError, match="shapes differ"), lost_processes():
        raise RuntimeError("shapes differ")
