"""A tiny model and budgets of one step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.claims import variants
from nvb_core.checkpoint import save_model
from nvb_core.config import tiny_config
from nvb_core.model import NVBModel
from tests.training.conftest import accelerate_reset

__all__ = ["accelerate_reset"]

SMALLEST = {"identities": 2, "vae_steps": 1, "step1_steps": 1, "workers": 1, "size": 32}
QUICK = {"step2_steps": 1, "heads_measured": 4, "views": 2, "sampling_steps": 1}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint; what experiments share is made beside it by the first that needs it."""
    folder = tmp_path_factory.mktemp("claims")
    torch.manual_seed(0)
    save_model(NVBModel(tiny_config()), folder / "tiny.safetensors", {})
    return folder


@pytest.fixture
def experiment(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Any]], Any]:
    """Options of an experiment on a tiny model."""
    monkeypatch.setattr(variants, "SMALL_VIEW", {})

    def make(options: type[Any]) -> Any:
        return options(folder=workplace / "out", weights=workplace / "tiny.safetensors", **SMALLEST, **QUICK)

    return make
