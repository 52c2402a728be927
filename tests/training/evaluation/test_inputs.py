from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError, OccupiedError
from nvb_core.images import load_image
from training.evaluation import cli
from training.evaluation.benchmark import Benchmark
from training.evaluation.inputs import Options, main
from training.evaluation.measure import degrade_input


def export(heads: Benchmark, out: Path, *more: str, through: Callable[[list[str]], int] = main) -> None:
    fixed = {
        "benchmark": heads.folder.parent,
        "out": out,
        "identities": 2,
        "views": heads.settings.views,
        "size": heads.settings.image_size,
        "workers": 1,
    }
    assert through([part for key, value in fixed.items() for part in (f"--{key}", str(value))] + list(more)) == 0


def test_inputs_and_cameras(heads: Benchmark, tmp_path: Path) -> None:
    export(heads, tmp_path / "in", "--level", "2")
    assert {path.name for path in (tmp_path / "in").iterdir()} == {
        "01000000",
        "01000001",
        "dataset.json",
        "inputs.json",
    }
    labels = dict(json.loads((tmp_path / "in/dataset.json").read_text())["labels"])
    names = ["input.png", "view_00.png", "view_01.png", "view_02.png", "pair_0.png", "pair_1.png"]
    for seed in (1_000_000, 1_000_001):
        face, folder = heads.load(seed), tmp_path / f"in/{seed:08d}"
        assert {path.name for path in folder.iterdir()} == {"input.png", "cameras.json"}
        shown = load_image(folder / "input.png").pixels
        torch.testing.assert_close(shown, degrade_input(face, 2), atol=1 / 255, rtol=0)
        manifest = json.loads((folder / "cameras.json").read_text())
        assert manifest["images"] == names
        exact = face.cameras.all.to_eg3d()
        assert torch.equal(Cameras.from_json(folder / "cameras.json").to_eg3d(), exact)
        assert torch.equal(Cameras.from_eg3d([labels[f"{seed:08d}/{name}"] for name in names]).to_eg3d(), exact)
        assert dict(manifest["labels"])["view_01.png"] == labels[f"{seed:08d}/view_01.png"]


def test_export_inputs_is_the_same_command(heads: Benchmark, tmp_path: Path) -> None:
    export(heads, tmp_path / "in")
    export(heads, tmp_path / "forwarded", through=lambda arguments: cli.main(["export-inputs", *arguments]))
    files = [path.relative_to(tmp_path / "in") for path in sorted((tmp_path / "in").rglob("*.*"))]
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "forwarded" / file).read_bytes() == (tmp_path / "in" / file).read_bytes()


def test_a_system_that_copies_its_input_scores_as_copying(weights: Path, heads: Benchmark, tmp_path: Path) -> None:
    export(heads, tmp_path / "in", "--level", "0")
    for folder in (tmp_path / "in").glob("0*"):
        (tmp_path / "copies" / folder.name).mkdir(parents=True)
        for name in json.loads((folder / "cameras.json").read_text())["images"]:
            shutil.copy(folder / "input.png", tmp_path / "copies" / folder.name / name)
    arguments = ["--weights", str(weights), "--benchmark", str(heads.folder.parent), "--out", str(tmp_path / "out")]
    arguments += ["--identities", "2", "--views", "3", "--steps", "1", "--level", "0", "--device", "cpu"]
    assert cli.main([*arguments, "--workers", "1", "--method", f"copies={tmp_path / 'copies'}"]) == 0
    figures = json.loads((tmp_path / "out/report.json").read_text())["methods"]["copies"]["figures"]
    assert figures["restored_psnr"]["value"] == 100
    assert figures["psnr"]["value"] == pytest.approx(figures["copy_psnr"]["value"])
    assert figures["ssim"]["value"] == pytest.approx(figures["copy_ssim"]["value"])


def test_fewer_heads_leave_no_old_ones(heads: Benchmark, tmp_path: Path) -> None:
    export(heads, tmp_path / "in")
    before = (tmp_path / "in/01000000/input.png").read_bytes()
    export(heads, tmp_path / "in", "--identities", "1")
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"01000000", "dataset.json", "inputs.json"}
    assert (tmp_path / "in/01000000/input.png").read_bytes() == before


def test_foreign_files_are_left_alone(heads: Benchmark, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("mine")
    with pytest.raises(OccupiedError, match=r"holds dataset\.json"):
        export(heads, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]
    assert (tmp_path / "dataset.json").read_text() == "mine"


def test_bad_size() -> None:
    with pytest.raises(ConfigError, match="--size is 8"):
        Options(size=8)
