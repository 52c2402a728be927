from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from training.evaluation.plots import yaw_curve, yaw_plot

from .test_report import SCORES, VIEW


def test_bins_of_yaw_weigh_heads_alike() -> None:
    first = replace(SCORES, views=(replace(VIEW, yaw_deg=-5, psnr=20), replace(VIEW, yaw_deg=9, psnr=22)))
    second = replace(SCORES, views=(replace(VIEW, yaw_deg=7, psnr=25), replace(VIEW, yaw_deg=-45, psnr=10)))
    frontal, side = yaw_curve([first, second], "psnr")
    assert frontal[:2] == pytest.approx((7.0, 23.0))
    assert frontal[2] == pytest.approx(1.96 * 2**0.5 * 2 / 2**0.5)
    assert side == pytest.approx((45.0, 10.0, 0.0))
    assert yaw_curve([first, second], "identity") == []
    turned = replace(SCORES, views=tuple(replace(VIEW, yaw_deg=yaw, psnr=20) for yaw in (5, -60, 90, 180)))
    assert [yaw for yaw, *_ in yaw_curve([turned], "psnr")] == [5, 60, 135]


def test_every_system_has_a_line_by_yaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    legends: list[list[str]] = []
    monkeypatch.setattr(Figure, "legend", lambda self, handles, labels, **_: legends.append(labels))
    yaw_plot({"ours": {1: [SCORES]}, "theirs": {1: [SCORES]}}, tmp_path / "one.png")
    yaw_plot({"ours": {0: [SCORES], 2: [SCORES]}}, tmp_path / "levels.png")
    yaw_plot({name: {0: [SCORES], 2: [SCORES]} for name in ("ours", "theirs")}, tmp_path / "both.png")
    assert legends == [
        ["ours", "theirs"],
        ["level 0", "level 2"],
        ["ours, level 0", "ours, level 2", "theirs, level 0", "theirs, level 2"],
    ]
