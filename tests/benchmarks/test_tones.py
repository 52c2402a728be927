from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import tones
from nvb_core.checkpoint import save_model
from nvb_core.config import tiny_config
from nvb_core.model import NVBModel


def test_table_of_all_tones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    save_model(NVBModel(tiny_config()), tmp_path / "tiny.safetensors", {})
    tones.main(tones.Options(tmp_path / "tiny.safetensors", identities=4, views=2, steps=1, folder=tmp_path / "heads"))
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows[1:] == list(tones.TONES)
    assert len([line for line in lines if "colour that isn't there" in line]) == 2


def test_colour_of() -> None:
    grey = torch.linspace(-1, 1, 16).expand(2, 3, 16)[..., None]
    assert tones.colour_of(grey) == pytest.approx(0, abs=1e-5)
    red = torch.tensor([30.0, 0, 0])[:, None, None] * 2 / 255 - 1
    assert tones.colour_of(red) == pytest.approx(200**0.5, rel=1e-4)
