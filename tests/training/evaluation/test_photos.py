from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nvb_core.errors import ConfigError, OutputError
from nvb_core.fit import FIT_STEPS
from nvb_core.images import to_pil
from nvb_core.provenance import PNG_KEY
from nvb_core.sampling import SamplingOptions
from training.evaluation import photos, run
from training.evaluation.benchmark import Benchmark
from training.evaluation.photo_report import PLUGGED_NOTE, photo_page
from training.evaluation.photo_scores import VIEWS_DEG, PhotoScores, PluggedEmbeddings, coarse_psnr
from training.evaluation.photos import Options, main, make_evaluation

SCORES = PhotoScores("a.png", 3.0, -2.0, 24.0, 22.0, None, 0.4, None, 0.6, 4.0)


@pytest.fixture
def folder(heads: Benchmark, tmp_path: Path) -> Path:
    """Two photos, a file that is none, and what rendering left."""
    photo = tmp_path / "photos"
    photo.mkdir()
    for name, seed in (("a.png", 1_000_000), ("b.png", 1_000_001)):
        to_pil(heads.load(seed).image).save(photo / name)
    (photo / "c.png").write_text("no photo")
    info = PngInfo()
    info.add_itxt(PNG_KEY, "{}")
    Image.new("RGB", (8, 8)).save(photo / "sheet.png", pnginfo=info)
    return photo


@pytest.fixture
def measure(weights: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*arguments: str | Path) -> int:
        fixed = [
            "--weights",
            weights,
            "--steps",
            "1",
            "--center",
            "--no-refine",
            "--device",
            "cpu",
            "--out",
            tmp_path / "out",
        ]
        return main([str(argument) for argument in (*arguments, *fixed)])

    return run


@pytest.mark.parametrize(("asked", "taken"), [(0, 3), (7, 7)])
def test_steps_are_the_models_where_none_are_asked_for(weights: Path, tmp_path: Path, asked: int, taken: int) -> None:
    evaluation, described = make_evaluation(Options(weights=weights, out=tmp_path, steps=asked, device="cpu"))
    assert evaluation.sampling == SamplingOptions(taken, fit_steps=FIT_STEPS)
    assert described["steps"] == taken


def test_other_options_are_other_results(weights: Path, tmp_path: Path) -> None:
    options = Options(weights=weights, out=tmp_path, steps=3, device="cpu")
    changes: list[dict[str, int]] = [{}, {"steps": 4}, {"seed": 1}, {"fit_steps": 0}]
    assert len({make_evaluation(replace(options, **change))[0].folder for change in changes}) == len(changes)  # type: ignore[arg-type]


def test_results_depend_on_the_naturalness_they_were_held_against(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(weights=weights, out=tmp_path, device="cpu")
    before = make_evaluation(options)[0].folder
    other = tmp_path / run.FITTED_MODEL.name
    other.write_bytes(b"fitted again")
    monkeypatch.setattr(run, "FITTED_MODEL", other)
    assert make_evaluation(options)[0].folder != before


def test_photos_end_to_end(
    measure: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert measure(folder) == 2
    captured = capsys.readouterr()
    assert "of 2 of 3 photos" in " ".join(captured.out.split())
    assert "c.png" in captured.err
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [item["name"] for item in report["photos"]] == ["a.png", "b.png"]
    assert all(0 <= item["flow_share"] <= 1 and -1 <= item["identity"] <= 1 for item in report["photos"])
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        assert sheet.size == (32 * (3 + len(VIEWS_DEG)), 2 * (32 + 20))
        first = sheet.crop((0, 20, 32, 52)).convert("RGB")
        with Image.open(folder / "a.png") as photo:
            difference = torch.tensor(list(first.tobytes())).int() - torch.tensor(list(photo.tobytes())).int()
    assert difference.abs().max() <= 1

    monkeypatch.setattr(photos, "draw_photo", lambda *_: pytest.fail("this was to be reused"))
    assert measure(folder / "a.png", folder / "b.png") == 0
    assert json.loads((tmp_path / "out/report.json").read_text())["photos"] == report["photos"]


def test_nothing_to_measure(measure: Callable[..., int], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of 1 photos could be measured"):
        measure(folder / "c.png")
    assert not (tmp_path / "out/report.md").exists()


def test_output_that_cannot_be_written(weights: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        main([str(folder), "--weights", str(weights), "--out", str(tmp_path / "file/out")])


def test_one_face_a_photo() -> None:
    from nvb_core.cli.faces import FaceOptions

    with pytest.raises(ConfigError, match="--face all"):
        Options(face=FaceOptions(face="all"))


def test_coarse_pictures_are_compared() -> None:
    flat = torch.zeros(3, 32, 32)
    board = torch.ones(3, 32, 32)
    board[:, ::2] = -1  # means to nothing
    assert coarse_psnr(board, flat) == 100.0
    assert coarse_psnr(flat + 0.2, flat) == pytest.approx(20.0, abs=1e-3)


def test_means_leave_out_what_is_missing() -> None:
    other = PhotoScores("b.png", 5.0, 0.0, 26.0, 23.0, 30.0, 0.6, None, 0.8, 2.0)
    page = photo_page([SCORES, other] * 2, {"steps": 1})
    assert "| a.png | 3.0 | -2.0 | 24.0 | 22.0 | – | 0.40 | – | 0.60 | 4.0 |" in page
    [mean] = [line for line in page.splitlines() if line.startswith("| mean")]
    cells = [cell.strip() for cell in mean.split("|")[1:-1]]
    assert cells[3] == "25.0 (24.0 – 26.0)"
    assert (cells[5], cells[7]) == ("30.0", "–")
    assert "\n| mean | 4.0 | -1.0 | 25.0 |" in photo_page([SCORES, other], {})


def unit(degrees: float) -> tuple[float, float]:
    return (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def test_a_given_network_tells_photos_apart() -> None:
    """By angles: a's views lie 30° from a and 60° from b, and b's 20° from b and 70° from a."""
    a = replace(SCORES, plugged=PluggedEmbeddings(unit(0), unit(10), unit(20), unit(30)))
    b = replace(SCORES, name="b.png", plugged=PluggedEmbeddings(unit(90), unit(90), unit(100), unit(70)))
    page = photo_page([a, b], {})
    assert "| 4.0 | 0.98 | 0.94 | 0.87 | 0.50 |" in page
    assert "| 4.0 | 1.00 | 0.98 | 0.94 | 0.34 |" in page
    assert PLUGGED_NOTE in page
    assert "| 0.87 | – |" in photo_page([a], {})
    assert "| 0.87 | – |" in photo_page([a, replace(a, name="copy of a.png")], {})
    assert "plugged" not in photo_page([SCORES], {})


def test_photos_with_a_network_of_the_users(
    measure: Callable[..., int], folder: Path, tmp_path: Path, make_onnx: Callable[..., Path]
) -> None:
    """One that gives its picture back: cosines are those of the pictures on the sheet."""
    network = make_onnx(["n", 3, 32, 32])
    plug = ["--embedding", str(network), "--embedding-crop", "whole"]
    assert measure(folder / "a.png", folder / "b.png", *plug) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["settings"]["embedding"].endswith(" (whole, rgb, (x - 127.5) / 127.5)")
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        rows = [
            torch.stack([pixels(sheet, column, row).float() / 127.5 - 1 for column in range(3 + len(VIEWS_DEG))])
            for row in range(2)
        ]
    photos, restored, turned = (torch.stack([row[i] for row in rows]).flatten(1) for i in range(3))
    views = [F.normalize(row[3:].flatten(1), dim=1).mean(0) for row in rows]
    for i, item in enumerate(report["photos"]):
        photo, other = (F.normalize(photos[j], dim=0) for j in (i, 1 - i))
        assert item["plugged_restored"] == pytest.approx(F.cosine_similarity(photos, restored)[i].item(), abs=0.01)
        assert item["plugged_turned"] == pytest.approx(F.cosine_similarity(photos, turned)[i].item(), abs=0.01)
        assert item["plugged_views"] == pytest.approx(float(photo @ views[i]), abs=0.01)
        assert item["plugged_others"] == pytest.approx(float(other @ views[i]), abs=0.01)
        assert "plugged" not in item

    assert measure(folder / "a.png", folder / "b.png", *plug) == 0  # from what was kept
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    assert measure(folder / "a.png") == 0  # other settings, measured anew
    assert "plugged_views" not in json.loads((tmp_path / "out/report.json").read_text())["photos"][0]


def pixels(sheet: Image.Image, column: int, row: int) -> torch.Tensor:
    """(3, 32, 32) of a sheet of pictures of 32 px under captions of 20."""
    x, y = column * 32, row * 52 + 20
    cell = sheet.convert("RGB").crop((x, y, x + 32, y + 32))
    return torch.frombuffer(bytearray(cell.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
