from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from tests.training.data.convert.made_up import pixels_of, save_picture
from training.data import FaceFolder, read_index
from training.data.convert.eg3d import plan_eg3d
from training.data.convert.generated import plan_generated
from training.data.convert.run import run
from training.data.index import split_stem

LABELS = Cameras.from_angles([-20.0, 0.0, 30.0]).to_eg3d().tolist()


def write_ffhq(source: Path, count: int = 3) -> dict[str, np.ndarray]:
    """As EG3D's preprocessing leaves FFHQ: each image, then its mirror image with its mirrored label."""
    labels: list[Any] = []
    pixels = {}
    for i in range(count):
        name = f"00000/img{i:08d}.png"
        mirror = name.replace(".png", "_mirror.png")
        pixels[name] = save_picture(source / name, i)
        pixels[mirror] = pixels[name][:, ::-1]
        Image.fromarray(pixels[mirror]).save(source / mirror)
        flipped = Cameras.from_eg3d([LABELS[i]]).mirrored().to_eg3d()[0].tolist()
        labels += [[name, LABELS[i]], [mirror, flipped]]
    (source / "dataset.json").write_text(json.dumps({"labels": labels}))
    return pixels


def edit_labels(source: Path, change: Any) -> None:
    path = source / "dataset.json"
    labels = json.loads(path.read_text())["labels"]
    change(labels)
    path.write_text(json.dumps({"labels": labels}))


def test_a_face_folder_is_not_converted_again(tmp_path: Path) -> None:
    write_ffhq(tmp_path / "src")
    run(plan_eg3d(tmp_path / "src"), tmp_path / "out", None, workers=1, show_progress=False)
    for plan in (plan_eg3d, partial(plan_generated, pivot_z=None)):
        with pytest.raises(ConfigError, match="out: is a face folder, whose"):
            plan(tmp_path / "out")


def test_ffhq(tmp_path: Path) -> None:
    pixels = write_ffhq(tmp_path / "src")
    report = run(plan_eg3d(tmp_path / "src"), tmp_path / "out", None, workers=2, show_progress=False)
    assert (report.images, report.subjects, report.with_camera, report.side_px, report.dropped) == (6, 3, 6, 32, ())
    index = read_index(tmp_path / "out")
    assert index.paths[:2] == ("00000-img00000000/mirror.png", "00000-img00000000/view.png")
    assert index.subjects[:3] == ("00000-img00000000", "00000-img00000000", "00000-img00000001")
    for path, label in zip(index.paths, index.labels, strict=True):
        folder, view = path.removesuffix(".png").split("/")
        name = f"{folder.replace('-', '/', 1)}{'_mirror' if view == 'mirror' else ''}.png"
        assert (tmp_path / "out" / path).read_bytes() == (tmp_path / "src" / name).read_bytes()
        np.testing.assert_array_equal(pixels_of(tmp_path / "out" / path), pixels[name])
        original = Cameras.from_eg3d([LABELS[int(folder[-1])]])
        expected = original.mirrored() if view == "mirror" else original
        torch.testing.assert_close(label, expected.to_eg3d()[0])
    folder = FaceFolder.load(tmp_path / "out", 32)
    assert len(folder) == 6
    assert folder.view_counts.tolist() == [1, 1, 1]
    with pytest.raises(ConfigError, match=r"needs? .*\(most: 1\)"):
        folder.require_views(1)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("img00000007", ("img00000007", "view")),
        ("img00000007_mirror", ("img00000007", "mirror")),
        ("img00000007_00", ("img00000007", "view_00")),
        ("img00000007_mirror_03", ("img00000007", "mirror_03")),
        ("anna_01", ("anna_01", "view")),
        ("anna_01_mirror", ("anna_01", "mirror")),
    ],
)
def test_originals_are_recognised(stem: str, expected: tuple[str, str]) -> None:
    assert split_stem(stem) == expected


def test_scaling(tmp_path: Path) -> None:
    write_ffhq(tmp_path / "src")
    report = run(plan_eg3d(tmp_path / "src"), tmp_path / "out", 16, workers=1, show_progress=False)
    assert (report.images, report.side_px) == (6, 16)
    whole = pixels_of(tmp_path / "src" / "00000" / "img00000001.png").astype(float)
    small = pixels_of(tmp_path / "out" / "00000-img00000001" / "view.png").astype(float)
    averaged = whole.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - averaged).mean() < 12  # bicubic, near the average
    assert np.corrcoef(small.ravel(), averaged.ravel())[0, 1] > 0.95


def test_what_is_dropped_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "src"
    write_ffhq(source)
    for number, name in enumerate(("extra", "nan", "skewed", "twice", "wide", "cut", "jpeg", "short")):
        save_picture(source / "00000" / f"{name}.png", 10 + number, *((48, 32) if name == "wide" else ()))
    whole = (source / "00000" / "cut.png").read_bytes()
    (source / "00000" / "cut.png").write_bytes(whole[: len(whole) // 2])
    skewed = [*LABELS[0]]
    skewed[0] *= 1.1

    def spoil(labels: list[Any]) -> None:
        labels += [
            ["00000/gone.png", LABELS[0]],
            ["00000/nan.png", [*LABELS[0][:24], float("nan")]],
            ["00000/skewed.png", skewed],
            *[["00000/twice.png", label] for label in LABELS[:2]],
            *[[f"00000/{name}.png", LABELS[0]] for name in ("wide", "cut", "jpeg")],
            ["00000/short.png", LABELS[0][:24]],
            ["broken"],
        ]

    edit_labels(source, spoil)
    report = run(plan_eg3d(source), tmp_path / "out", None, workers=2, show_progress=False)
    assert (report.images, report.subjects) == (7, 4)
    reasons = {entry.file.removeprefix("00000/"): entry.reason for entry in report.dropped}
    assert reasons == {
        "gone.png": "label without image",
        "extra.png": "image without label",
        "nan.png": "bad label",
        "short.png": "bad label",
        "skewed.png": "bad camera: rotation must be orthonormal to 0.0001",
        "twice.png": "several labels for one image",
        "wide.png": "not square",
        "cut.png": "unreadable image",
        "dataset.json: labels[15]": "entry isn't [path, [25 numbers]]",
    }
    written = json.loads((tmp_path / "out" / "report.json").read_text())["dropped"]
    assert written["bad label"]["count"] == 2
    assert written["not square"]["files"] == [{"file": "00000/wide.png", "detail": "48x32 px"}]
    assert "dropped 2: bad label (first: 00000/nan.png: label holds a value" in "\n".join(report.lines())
    assert not any("wide" in str(path) for path in (tmp_path / "out").rglob("*.png"))


def test_sizes_must_agree(tmp_path: Path) -> None:
    write_ffhq(tmp_path / "src")
    Image.new("RGB", (64, 64)).save(tmp_path / "src" / "00000" / "img00000001.png")
    report = run(plan_eg3d(tmp_path / "src"), tmp_path / "out", None, workers=1, show_progress=False)
    assert (report.images, report.side_px) == (5, 32)
    assert [entry.reason for entry in report.dropped] == ["another size than most"]
    FaceFolder.load(tmp_path / "out", 32)
    report = run(plan_eg3d(tmp_path / "src"), tmp_path / "scaled", 24, workers=1, show_progress=False)
    assert (report.images, report.side_px) == (6, 24)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "no such file"), ("{", "not readable"), ('{"labels": null}', "must hold"), ("[]", "must hold")],
)
def test_bad_sources(tmp_path: Path, content: str | None, complaint: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        plan_eg3d(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        plan_eg3d(tmp_path / "gone")
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(ConfigError, match="unpack it first"):
        plan_eg3d(tmp_path / "x.zip")
