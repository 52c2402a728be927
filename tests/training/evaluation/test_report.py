from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from training.evaluation.benchmark import BenchmarkFace
from training.evaluation.measure import GeneratedFaces
from training.evaluation.metrics import CameraErrors
from training.evaluation.report import Report, to_table, write_report
from training.evaluation.scores import IdentityScores, ViewScores, read_scores, scores_from_object, write_scores
from training.evaluation.sheet import CAPTION_PX, GAP_PX, MAX_STRIPS, MAX_VIEWS, face_strip, views_shown

VIEW = ViewScores(10, 5, 32.5, 22, 0.71, 0.8, 0.1, 16, 0.5, True, True)
SCORES = IdentityScores(
    1_000_000,
    24,
    26,
    CameraErrors(2, 1, 0.5, 3),
    None,
    38,
    4.0,
    None,
    (VIEW, VIEW),
    {"views": 2.0, "measuring": 0.5},
    "A, 2 cores",
)


def make_report(count: int) -> Report:
    scores = tuple(replace(SCORES, seed=SCORES.seed + i, machine=f"{'AB'[i % 2]}, 2 cores") for i in range(count))
    weights = {"file": "some.safetensors", "sha256": "ab" * 32, "model": "tiny"}
    return Report(weights, {"level": 1, "steps": 50}, "1234abc", 12.0, scores)


def test_other_systems_are_columns(tmp_path: Path) -> None:
    theirs = replace(SCORES, camera=None, views=(replace(VIEW, psnr=20, autoencoder_psnr=None),))
    report = replace(make_report(4), methods={"other": (theirs,) * 4})
    assert read_back(theirs, tmp_path) == theirs
    write_report(report, tmp_path, make_strips(tmp_path, 4))
    markdown = (tmp_path / "report.md").read_text()
    assert "| figure, 95 % interval | some.safetensors | other |\n|---|---|---|\n" in markdown
    assert "| novel views PSNR | 22.00 dB (22.00 – 22.00) | 20.00 dB (20.00 – 20.00) |\n" in markdown
    assert "| predicted yaw, mean error | 2.00° (2.00 – 2.00) | – |\n" in markdown
    assert "| autoencoder PSNR | 32.50 dB (32.50 – 32.50) | – |\n" in markdown
    written = json.loads((tmp_path / "report.json").read_text())["methods"]["other"]
    assert written["figures"]["psnr"] == {"value": 20, "low": 20, "high": 20}
    assert scores_from_object(written["identities"][0]) == theirs


def read_back(scores: IdentityScores, folder: Path) -> IdentityScores:
    write_scores(scores, folder / "scores.json")
    return read_scores(folder / "scores.json")


def make_strips(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.new("RGB", (120, 40), (0, i, 255)).save(path)
    return paths


def test_scores_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_scores(SCORES, path)
    assert read_scores(path) == SCORES
    assert [p.name for p in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"camera": {}, "views": []}', '{"camera": 1}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"scores\.json: not an identity's scores .* delete it"):
        read_scores(path)


def test_report_files(tmp_path: Path) -> None:
    report = make_report(3)
    write_report(report, tmp_path / "out", make_strips(tmp_path, 3))
    written = json.loads((tmp_path / "out/report.json").read_text())
    assert written["figures"]["psnr"] == {
        "label": "novel views PSNR",
        "unit": "dB",
        "value": 22,
        "low": None,
        "high": None,
        "identities": 3,
        "at_least": 21.5,
        "at_most": None,
        "passed": True,
    }
    assert written["figures"]["pair_psnr"]["value"] is None
    assert written["machines"] == ["A, 2 cores", "B, 2 cores"]
    assert written["seconds"] == {"rendering (this run)": 12, "views": 6, "measuring": 1.5}
    assert [identity["seed"] for identity in written["identities"]] == [1_000_000, 1_000_001, 1_000_002]
    assert written["identities"][0]["views"][1]["ssim"] == 0.71
    markdown = (tmp_path / "out/report.md").read_text()
    assert markdown.startswith("# some.safetensors: 9 of 13 bars met\n")
    assert "| some.safetensors | **22.00 dB** | **0.710** | – | – | – | – | – |\n| copying the input | " in markdown
    assert "![Figures by yaw](yaw.png)" in markdown
    with Image.open(tmp_path / "out/yaw.png") as plot:
        assert min(plot.size) > 300
    assert "| novel views PSNR | 22.00 dB |  | >= 21.5 | met |\n" in markdown
    assert "| neighbours 5° apart, skin | nothing to measure |  | >= 26 | missed |\n" in markdown
    assert "| predicted yaw, mean error | 2.00° |  | <= 3 | met |\n" in markdown
    assert "3 synthetic heads, seeds 1000000–1000002, of 2 views each" in markdown
    assert "| novel views NIQE | 4.000 |  |\n" in markdown
    assert "| true views NIQE | nothing to measure |  |\n" in markdown
    for line in markdown.splitlines():
        if line.startswith("| novel views SSIM"):
            assert line.split(" | ")[1] == "0.710"


def test_at_level_0_there_is_nothing_to_gain(tmp_path: Path) -> None:
    clean = replace(make_report(1), scores=(replace(SCORES, degraded_psnr=100.0),))
    write_report(clean, tmp_path, make_strips(tmp_path, 1))
    markdown = (tmp_path / "report.md").read_text()
    assert " of 12 bars met\n" in markdown
    assert "restoration above its input" not in markdown


def test_sheet_shows_the_first_identities(tmp_path: Path) -> None:
    count = MAX_STRIPS + 2
    write_report(make_report(count), tmp_path, make_strips(tmp_path, count))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (120, MAX_STRIPS * (40 + CAPTION_PX))
        for row in range(MAX_STRIPS):
            assert sheet.getpixel((60, row * (40 + CAPTION_PX) + CAPTION_PX + 20)) == (0, row, 255)


def test_table_shows_every_figure() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(to_table(make_report(2)))
    console.file.close()
    text = console.export_text()
    assert "9 of 13 bars met" in text
    assert "missed" in text
    assert "true neighbours, skin" in text


def test_strips_of_many_views_show_some(make_face: Callable[[int], BenchmarkFace]) -> None:
    face = make_face(1_000_004)
    assert len(set(views_shown(face.cameras.targets))) == len(face.targets)  # all of a few
    yaw = torch.linspace(-40, 40, 100)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    shown = views_shown(Cameras.from_angles(yaw.tolist(), 0.0))
    assert len(shown) == MAX_VIEWS
    assert yaw[shown].tolist() == pytest.approx(torch.linspace(-40, 40, MAX_VIEWS).tolist(), abs=0.5)
    assert views_shown(Cameras.from_angles([10.0], 0.0)) == [0]


def test_strip_orders_views_by_yaw(make_face: Callable[[int], BenchmarkFace]) -> None:
    face = make_face(1_000_004)
    size, views = face.image.shape[-1], len(face.targets)
    shades = torch.linspace(-1, 1, views).view(views, 1, 1, 1).expand_as(face.targets)
    generated = GeneratedFaces(
        degraded=face.image[None],
        restored=-face.image[None],
        reconstructed=shades[None],
        views=shades[None],
        pairs=torch.zeros(1, 2, 3, size, size),
        predicted=face.cameras.input,
        seconds={},
    )
    strip = face_strip(face, generated, 0)
    assert strip.size == (size + GAP_PX + views * size, 2 * size)
    shown = [strip.getpixel((size + GAP_PX + i * size, 0)) for i in range(views)]
    yaw = face.cameras.targets.angles().yaw_deg
    expected = [round((float(shades[i, 0, 0, 0]) + 1) * 127.5) for i in yaw.argsort().tolist()]
    assert [pixel[0] for pixel in shown] == pytest.approx(expected, abs=1)  # type: ignore[index]
    assert expected != sorted(expected)
