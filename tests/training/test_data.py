from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nvb_core.cameras import DEFAULT_FOV_DEG, FOCAL, Cameras
from nvb_core.errors import ConfigError, OutputError
from training.data import FaceFolder, read_index, to_float, write_index

MARGIN = 1.25


def cameras_with_margin(count: int, margin: float = MARGIN) -> Cameras:
    cameras = Cameras.from_angles(
        torch.linspace(-40, 40, count), torch.linspace(-10, 15, count), fov_deg=DEFAULT_FOV_DEG
    )
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, :2, :2] /= margin
    return Cameras(cameras.cam2world, intrinsics)


def make_folder(folder: Path, subjects: int = 3, views: int = 4, size: int = 40, margin: float = MARGIN) -> Tensor:
    """A face folder of random pictures; returns their pixels (N, 3, H, H) uint8."""
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(256, size=(subjects * views, 3, size, size), dtype=np.uint8)
    )
    paths = [f"{s:08d}/{v:02d}.png" for s in range(subjects) for v in range(views)]
    for path, image in zip(paths, pixels, strict=True):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / path)
    names = [f"heads-{s:08d}" for s in range(subjects) for _ in range(views)]
    write_index(folder, paths, cameras_with_margin(len(paths), margin).to_eg3d(), names, {"seed": 1})
    return pixels


def edit_index(folder: Path, **changes: Any) -> None:
    path = folder / "dataset.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**index, **changes}.items() if v is not None}))


def test_index_round_trip(tmp_path: Path) -> None:
    labels = cameras_with_margin(2).to_eg3d()
    write_index(tmp_path, ["a/0.png", "b/0.png"], labels, ["a", "b"], {"margin": 1.25})
    index = read_index(tmp_path)
    assert (index.paths, index.subjects, index.meta) == (("a/0.png", "b/0.png"), ("a", "b"), {"margin": 1.25})
    assert torch.equal(index.labels, labels)
    assert [p.name for p in tmp_path.iterdir()] == ["dataset.json"]


def test_write_index_checks_lengths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 paths, 2 labels"):
        write_index(tmp_path, ["a.png"], torch.zeros(2, 25), ["a", "a"], {})


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").mkdir()
    with pytest.raises(OutputError, match=r"can.t be written"):
        write_index(tmp_path, ["a.png"], torch.zeros(1, 25), ["a"], {})
    assert [p.name for p in tmp_path.iterdir()] == ["dataset.json"]


def test_load(tmp_path: Path) -> None:
    pixels = make_folder(tmp_path)
    folder = FaceFolder.load(tmp_path, size=32)
    assert torch.equal(folder.pixels, pixels)
    assert [v.tolist() for v in folder.views] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    torch.testing.assert_close(folder.cameras.cam2world, cameras_with_margin(12).cam2world)
    assert folder.canonical_px == 32


def test_progress_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path)
    FaceFolder.load(tmp_path, size=32, show_progress=True)
    captured = capsys.readouterr()
    assert "loading images" in captured.err
    assert captured.out == ""


def test_eg3d_folder(tmp_path: Path) -> None:
    make_folder(tmp_path, size=32, margin=1.0)
    edit_index(tmp_path, format=None, version=None, subjects=None, meta=None)
    folder = FaceFolder.load(tmp_path, size=32)
    assert [v.tolist() for v in folder.views] == [[i] for i in range(12)]
    assert folder.canonical_px == 32


def test_folders_concatenate_without_mixing_subjects(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_folder(tmp_path / name, subjects=2)
    folder = FaceFolder.load([tmp_path / "a", tmp_path / "b"], size=32)
    assert len(folder) == 16
    assert [v.tolist() for v in folder.views] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_canonical_crop_is_the_exact_centre_with_the_canonical_camera(tmp_path: Path) -> None:
    pixels = make_folder(tmp_path)
    folder = FaceFolder.load(tmp_path, size=32)
    images = to_float(folder.pixels)
    assert torch.equal(folder.canonical_crops(images), to_float(pixels)[..., 4:36, 4:36])
    canonical = folder.canonical_cameras()
    torch.testing.assert_close(canonical.cam2world, folder.cameras.cam2world)
    expected = torch.tensor([[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(canonical.intrinsics, expected.expand(12, 3, 3))


def test_canonical_crop_resamples_to_smaller_sizes(tmp_path: Path) -> None:
    make_folder(tmp_path)
    folder = FaceFolder.load(tmp_path, size=16)
    assert folder.canonical_px == 32
    crops = folder.canonical_crops(torch.full((2, 3, 40, 40), 0.25))
    torch.testing.assert_close(crops, torch.full((2, 3, 16, 16), 0.25))


def test_margin_in_meta_wins(tmp_path: Path) -> None:
    make_folder(tmp_path)
    edit_index(tmp_path, meta={"margin": 2.0})
    assert FaceFolder.load(tmp_path, size=20).canonical_px == 20


def test_to_float_range() -> None:
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


GOOD = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 2.7, 0, 0, 0, 1, 4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"version": 9}, "version 9"),
        ({"format": "other"}, "'other'"),
        ({"labels": []}, "at least one"),
        ({"labels": {}}, "at least one"),
        ({"labels": [["00000000/00.png", GOOD], ["00000000/01.png"]]}, r"labels\[1\]"),
        ({"labels": [["00000000/00.png", GOOD[:24]]]}, r"labels\[0\] \(00000000/00.png\): label must be 25"),
        ({"labels": [["00000000/00.png", [*GOOD[:24], float("nan")]]]}, "not a finite number"),
        ({"labels": [["00000000/00.png", [*GOOD[:24], "1"]]]}, "not a finite number"),
        ({"labels": [["../00.png", GOOD]]}, "inside the folder"),
        ({"labels": [["/etc/x.png", GOOD]]}, "inside the folder"),
        ({"labels": [["00000000/00.png", [2, *GOOD[1:]]]], "subjects": ["a"]}, "bad label"),
        ({"labels": [["missing.png", GOOD]], "subjects": ["a"]}, "missing.png: listed in dataset.json but missing"),
        ({"subjects": ["a"]}, "list of 12 strings"),
        ({"meta": 3}, "meta"),
        ({"meta": {"margin": 0}}, "margin"),
        ({"meta": {"margin": "wide"}}, "margin"),
    ],
)
def test_bad_index(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    make_folder(tmp_path)
    edit_index(tmp_path, **changes)
    with pytest.raises(ConfigError, match=complaint) as caught:
        FaceFolder.load(tmp_path, size=32)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        FaceFolder.load(tmp_path, size=32)
    (tmp_path / "dataset.json").write_text("{broken")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        FaceFolder.load(tmp_path, size=32)
    with pytest.raises(ConfigError, match="no data folder"):
        FaceFolder.load([], size=32)


def test_bad_images(tmp_path: Path) -> None:
    make_folder(tmp_path)
    bad = tmp_path / "00000001" / "02.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:200])
    with pytest.raises(ConfigError, match=r"00000001.02\.png: not a readable image"):
        FaceFolder.load(tmp_path, size=32)
    Image.new("RGB", (20, 20)).save(bad)
    with pytest.raises(ConfigError, match=r"00000001.02\.png: 20 px wide"):
        FaceFolder.load(tmp_path, size=32)
    Image.new("RGB", (40, 30)).save(bad)
    with pytest.raises(ConfigError, match=r"00000001.02\.png: 40x30 px, must be square"):
        FaceFolder.load(tmp_path, size=32)


def test_sizes_must_fit(tmp_path: Path) -> None:
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "b", margin=1.0)
    with pytest.raises(ConfigError, match="too small for size 64"):
        FaceFolder.load(tmp_path / "a", size=64)
    with pytest.raises(ConfigError, match="canonical crop of 40 px, but 32 px"):
        FaceFolder.load([tmp_path / "a", tmp_path / "b"], size=32)
