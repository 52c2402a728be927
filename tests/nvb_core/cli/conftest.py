from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core import cli
from nvb_core.checkpoint import save_model
from nvb_core.config import tiny_config
from nvb_core.model import NVBModel

Run = Callable[..., tuple[int, list[str]]]
FAST = ["--steps", "2", "--views", "2", "--no-turntable", "--center", "--no-refine", "--device", "cpu"]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(NVBModel(replace(tiny_config(), sampling_steps=3)), path, {})
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "made" / "out"


@pytest.fixture
def run(
    weights: Path, photo: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Call `nvb-face render` in this process: exit code and lines of stderr."""
    entries = [EntryPoint("render", "nvb_core.cli.render:main", cli.GROUP)]
    monkeypatch.setattr(cli.metadata, "entry_points", lambda group: entries)

    def render(
        *arguments: str | Path, photos: tuple[str | Path, ...] = (photo,), fast: bool = True
    ) -> tuple[int, list[str]]:
        given = [*photos, "--out", out, "--weights", weights, *(FAST if fast else ()), *arguments]
        code = cli.main(["render", *map(str, given)])
        return code, capsys.readouterr().err.splitlines()

    return render


@pytest.fixture
def fast() -> list[str]:
    """Options that make a quick run."""
    return list(FAST)
