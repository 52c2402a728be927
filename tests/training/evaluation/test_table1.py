from __future__ import annotations

from dataclasses import replace

from training.evaluation.table1 import table

from .test_report import SCORES, VIEW, make_report


def test_rows_are_methods_and_columns_the_papers() -> None:
    better = replace(SCORES, views=(replace(VIEW, psnr=25, ssim=0.6, identity=0.4),))
    header, _, own, other, copying, _ = table(replace(make_report(1), methods={"other": (better,)}).systems)
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
