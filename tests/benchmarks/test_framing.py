from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import framing
from nvb_core.checkpoint import save_model
from nvb_core.config import tiny_config
from nvb_core.model import NVBModel


def test_a_row_for_each_framing_in_which_nothing_else_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_model(NVBModel(tiny_config()), tmp_path / "tiny.safetensors", {})
    options = framing.Options(tmp_path / "tiny.safetensors", 4, views=2, steps=1, folder=tmp_path / "heads")
    framing.main(options)
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == ["views", *framing.FRAMINGS]

    folder = framing.rendered_heads(options, 32)
    canonical, rolled, *_ = (framing.batches(folder, options, jitter)[0] for jitter in framing.FRAMINGS.values())
    assert torch.equal(canonical.lq, rolled.lq)
    assert torch.equal(canonical.target_images, rolled.target_images)
    pinhole, place, turn = slice(12, 16), [3, 7, 11], slice(0, 3)
    for same in (pinhole, place):
        assert torch.equal(canonical.target_cameras[..., same], rolled.target_cameras[..., same])
    assert not torch.allclose(canonical.target_cameras[..., turn], rolled.target_cameras[..., turn])
