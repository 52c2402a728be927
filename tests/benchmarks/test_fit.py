from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import fit
from nvb_core.checkpoint import save_model
from nvb_core.config import tiny_config
from nvb_core.model import NVBModel


def test_a_row_and_a_line_for_each_number_of_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    save_model(NVBModel(tiny_config()), tmp_path / "tiny.safetensors", {})
    fit.main(fit.Options(tmp_path / "tiny.safetensors", (0, 2), 4, views=2, steps=1, folder=tmp_path / "heads"))
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows[1:] == ["0 steps", "2 steps"]
    assert len([line for line in lines if "own view" in line]) == 2
