from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from training.evaluation.levels import table, write_levels
from training.evaluation.plots import yaw_curve

from .test_report import SCORES, VIEW, make_report


def test_rows_are_methods_and_columns_the_papers() -> None:
    better = replace(SCORES, views=(replace(VIEW, psnr=25, ssim=0.6, identity=0.4),))
    header, _, own, other, copying, _ = table(replace(make_report(1), methods={"other": (better,)}))
    assert [cell.strip(" \u2191\u2193") for cell in header.split("|")[1:-1]] == [
        "method",
        "PSNR",
        "SSIM",
        "LPIPS",
        "DISTS",
        "FID",
        "ID",
        "POSE, yaw",
    ]
    assert own == "| some.safetensors | 22.00 dB | **0.710** | – | – | – | – | – |"
    assert other == "| other | **25.00 dB** | 0.600 | – | – | – | 0.400 | – |"
    assert copying == "| copying the input | 16.00 dB | 0.500 | – | – | – | – | – |"


def test_page_and_plots_of_several_levels(tmp_path: Path) -> None:
    write_levels({0: make_report(2), 2: make_report(2)}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "level.png", "yaw.png"}
    for name in ("level.png", "yaw.png"):
        with Image.open(tmp_path / name) as plot:
            assert min(plot.size) > 300
            assert len(plot.convert("RGB").getcolors(2**20) or []) > 20
    again = (tmp_path / "level.png").read_bytes()
    write_levels({0: make_report(2), 2: make_report(2)}, tmp_path)
    assert (tmp_path / "level.png").read_bytes() == again


def test_bins_of_yaw_weigh_heads_alike() -> None:
    first = replace(SCORES, views=(replace(VIEW, yaw_deg=-5, psnr=20), replace(VIEW, yaw_deg=9, psnr=22)))
    second = replace(SCORES, views=(replace(VIEW, yaw_deg=7, psnr=25), replace(VIEW, yaw_deg=-45, psnr=10)))
    frontal, side = yaw_curve([first, second], "psnr")
    assert frontal[:2] == pytest.approx((7.0, 23.0))
    assert frontal[2] == pytest.approx(1.96 * 2**0.5 * 2 / 2**0.5)
    assert side == pytest.approx((45.0, 10.0, 0.0))
    assert yaw_curve([first, second], "identity") == []
