from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from tests.training.data.convert.made_up import save_picture
from training.data import read_index
from training.data.cli import EG3D, main
from training.data.nersemble.cli import NeRSemble


def write_source(source: Path) -> None:
    labels = Cameras.from_angles([-20.0, 20.0]).to_eg3d().tolist()
    for i in range(3):
        save_picture(source / f"00000/img{i:08d}.png", i)
    entries = [[f"00000/img{i:08d}.png", label] for i, label in enumerate(labels)]
    (source / "dataset.json").write_text(json.dumps({"labels": entries}))


def test_convert_and_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_source(tmp_path / "src")
    out, sheet = tmp_path / "out", tmp_path / "pictures" / "sheet.png"
    assert main(["convert", "eg3d", str(tmp_path / "src"), "--out", str(out), "--size", "16"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"wrote {out}: 2 images of 16 px, 2 subjects",
        "dropped 1: image without label (first: 00000/img00000002.png)",
        f"all 1 that were dropped: {out / 'report.json'}",
    ]
    assert "converting" in printed.err
    assert len(read_index(out).paths) == 2
    assert main(["sheet", str(out), "--out", str(sheet), "--subjects", "2", "--views", "1"]) == 0
    with Image.open(sheet) as picture:
        assert min(picture.size) > 500


def test_names_that_are_not_unicode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_source(tmp_path / "src")
    unlabelled = os.fsencode(tmp_path / "src" / "00000" / "img00000002.png")
    os.rename(unlabelled, unlabelled.replace(b"img00000002", b"caf\xe9"))
    assert main(["convert", "eg3d", str(tmp_path / "src"), "--out", str(tmp_path / "out")]) == 0
    assert "(first: 00000/caf\\udce9.png)" in capsys.readouterr().out
    faces = ["convert", "faces", str(tmp_path / "src"), "--out", str(tmp_path / "faces"), "--no-crop", "--size", "16"]
    assert main(faces) == 0
    assert len(read_index(tmp_path / "faces").paths) == 3


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux")
def test_workers_are_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5})
    assert EG3D(Path("src"), Path("out")).workers == NeRSemble(Path("src"), Path("out")).workers == 3


def test_every_kind_has_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, own in {
        "eg3d": (),
        "generated": ("--pivot-z",),
        "transforms": ("--margin", "--similarity"),
        "faces": ("--margin", "--no-crop", "--subjects"),
    }.items():
        with pytest.raises(SystemExit) as stop:
            main(["convert", kind, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert all(option in text for option in ("--out", "--size", "--workers", *own))


@pytest.mark.parametrize("kind", ["eg3d", "generated", "transforms", "faces"])
def test_missing_source(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match="gone: no such folder"):
        main(["convert", kind, str(tmp_path / "gone"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_plain_faces(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "0.png", 0)
    arguments = ["convert", "faces", str(tmp_path / "src"), "--out", str(tmp_path / "out"), "--size", "16", "--no-crop"]
    assert main(arguments) == 0
    assert read_index(tmp_path / "out").has_camera.tolist() == [False]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["convert", "eg3d", "x", "--out", "y", "--size", "8"], "--size is 8"),
        (["convert", "eg3d", "x", "--out", "y", "--workers", "0"], "--workers is 0"),
        (["sheet", "x", "--subjects", "0"], "must be in 1-64"),
        (["sheet", "x", "--subjects", "9", "--views", "9"], "is 81, must be in 1-64"),
        (["sheet", "x", "--seed", "-1"], "--seed is -1"),
    ],
)
def test_bad_options(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        main(arguments)
