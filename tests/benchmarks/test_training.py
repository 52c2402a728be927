from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.training import SHRUNKEN, build_network, flops_per_step, main, random_batch
from nvb_core.flops import count
from tests.training.conftest import accelerate_reset
from training.presets import PaperStep1, PaperStep2

__all__ = ["accelerate_reset"]
pytestmark = pytest.mark.usefixtures("accelerate_reset")


@pytest.mark.parametrize("kind", [PaperStep1, PaperStep2])
def test_operations_without_memory_are_those_of_a_real_step(kind: Any, tmp_path: Path) -> None:
    plan = kind(out=tmp_path, data=(tmp_path,), init=tmp_path, batch_size=1, precision="no")
    network, batch = build_network(SHRUNKEN, plan), random_batch(SHRUNKEN, plan)

    def run() -> torch.Tensor:
        loss = network(batch, torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        return loss

    counted = flops_per_step(SHRUNKEN, plan)
    real = count(run)
    assert counted < real <= 2 * counted, "a real step computes the blocks' activations twice"


def test_prints_a_row_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", "shrunken", "--steps", "1", "--peak-tflops", "1"])
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("shrunken on ")
    assert [row.split()[:2] for row in rows] == [["step1", "8"], ["step2", "14"]]
    for row in rows:
        cells = dict(zip(header.replace("s/step", "seconds").split(), row.split(), strict=True))
        utilisation = float(cells["TFLOP"]) / float(cells["seconds"])
        assert float(cells["utilisation"].rstrip("%")) / 100 == pytest.approx(utilisation, abs=6e-4)
        assert float(cells["pictures/s"]) > 0
