from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core.cameras import FOCAL, Cameras
from nvb_core.errors import ConfigError
from tests.training.data.convert.made_up import pixels_of, save_picture
from training.data import FaceFolder, read_index
from training.data.convert.generated import plan_generated, strip_cameras
from training.data.convert.run import Report, run

CAMERAS = Cameras.from_angles([-20.0, 0.0, 30.0, 170.0])
NAMES = [f"seed{seed:04d}/{view:02d}" for seed in (3, 4) for view in (0, 1)]


def write_pictures(source: Path) -> list[np.ndarray]:
    return [save_picture(source / f"{name}.png", i) for i, name in enumerate(NAMES)]


def convert(source: Path, out: Path) -> Report:
    return run(plan_generated(source, None), out, None, 1, show_progress=False)


def assert_all_there(out: Path, pixels: list[np.ndarray]) -> None:
    index = read_index(out)
    assert index.paths == tuple(f"{name}.png" for name in NAMES)
    assert index.subjects == ("seed0003", "seed0003", "seed0004", "seed0004")
    torch.testing.assert_close(index.labels, CAMERAS.to_eg3d())
    for path, expected in zip(index.paths, pixels, strict=True):
        np.testing.assert_array_equal(pixels_of(out / path), expected)
    FaceFolder.load(out, 32).require_views(1)


def test_labels_in_one_file(tmp_path: Path) -> None:
    pixels = write_pictures(tmp_path / "src")
    save_picture(tmp_path / "src" / "grid.png", 9)
    entries = [[f"{name}.png", label] for name, label in zip(NAMES, CAMERAS.to_eg3d().tolist(), strict=True)]
    labels = {"labels": [*entries, ["grid.png", entries[0][1]]]}
    (tmp_path / "src" / "dataset.json").write_text(json.dumps(labels))
    report = convert(tmp_path / "src", tmp_path / "out")
    assert [(e.file, e.reason) for e in report.dropped] == [("grid.png", "not in a head's folder")]
    assert_all_there(tmp_path / "out", pixels)


@pytest.mark.parametrize("suffix", [".json", ".txt", ".npy"])
def test_labels_beside_images(tmp_path: Path, suffix: str) -> None:
    pixels = write_pictures(tmp_path / "src")
    for name, label in zip(NAMES, CAMERAS.to_eg3d().numpy(), strict=True):
        path = (tmp_path / "src" / name).with_suffix(suffix)
        if suffix == ".npy":
            np.save(path, label[None])  # (1, 25), as the generators' own labels are
        else:
            path.write_text(json.dumps(label.tolist()) if suffix == ".json" else "\n".join(map(repr, label.tolist())))
    save_picture(tmp_path / "src" / "seed0003" / "02.png", 8)
    save_picture(tmp_path / "src" / "seed0003" / "03.png", 9)
    (tmp_path / "src" / "seed0003" / f"03{suffix}").write_bytes(b"\x93 nonsense")
    report = convert(tmp_path / "src", tmp_path / "out")
    assert {e.file: e.reason for e in report.dropped} == {
        "seed0003/02.png": "image without label",
        "seed0003/03.png": "bad label",
    }
    assert_all_there(tmp_path / "out", pixels)


def test_heads_of_like_names_stay_apart(tmp_path: Path) -> None:
    label = CAMERAS.to_eg3d()[0].tolist()
    for i, folder in enumerate(("a/b", "a-b", "c/d")):
        save_picture(tmp_path / "src" / folder / "0.png", i)
        (tmp_path / "src" / folder / "0.json").write_text(json.dumps(label))
    convert(tmp_path / "src", tmp_path / "out")
    subjects = read_index(tmp_path / "out").subjects
    assert len(set(subjects)) == 3
    assert {"a-b", "c-d"} < set(subjects)


def test_labels_of_other_files(tmp_path: Path) -> None:
    files = {"0.npy": b"", "1.npy": b"PK\x03\x04 broken", "3.json": b"[" * 100_000}
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)})
    files["4.npy"] = huge.getvalue()
    for i in range(5):
        save_picture(tmp_path / "head" / f"{i}.png", i)
    for name, data in files.items():
        (tmp_path / "head" / name).write_bytes(data)
    np.savez(tmp_path / "head" / "2.npz", CAMERAS.to_eg3d()[0].numpy())
    (tmp_path / "head" / "2.npz").rename(tmp_path / "head" / "2.npy")
    assert [(e.file, e.reason) for e in plan_generated(tmp_path, None).dropped] == [
        (f"head/{i}.png", "bad label") for i in range(5)
    ]


def test_a_strip_beyond_all_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(tmp_path / "seed0.png", 0, 96, 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if a damaged header claimed so many
    assert [(e.file, e.reason) for e in plan_generated(tmp_path, None).dropped] == [("seed0.png", "unreadable image")]


def test_a_label_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    save_picture(tmp_path / "seed0003" / "00.png", 0)
    np.save(tmp_path / "seed0003" / "00.npy", np.array([{"a": 1}]), allow_pickle=True)
    (dropped,) = plan_generated(tmp_path, None).dropped
    assert (dropped.reason, "allow_pickle=False" in dropped.detail) == ("bad label", True)


@pytest.mark.parametrize("tiles", [3, 5])
def test_strips_of_gen_samples(tmp_path: Path, tiles: int) -> None:
    strip = save_picture(tmp_path / "src" / "seed0007.png", 0, 32 * tiles, 32)
    save_picture(tmp_path / "src" / "seed0008.png", 1, 32 * 4, 32)
    report = convert(tmp_path / "src", tmp_path / "out")
    assert (report.images, report.subjects) == (tiles, 1)
    assert [e.reason for e in report.dropped] == ["not a strip of 3 or 5 square views"]
    for view in range(tiles):
        shown = pixels_of(tmp_path / "out" / "seed0007" / f"{view:02d}.png")
        np.testing.assert_array_equal(shown, strip[:, 32 * view : 32 * (view + 1)])
    expected = strip_cameras(tiles, 0.2 if tiles == 3 else 0.0).to_eg3d()
    torch.testing.assert_close(read_index(tmp_path / "out").labels, expected)


def test_strip_cameras_are_those_of_the_scripts() -> None:
    eg3d, panohead = strip_cameras(3, 0.2), strip_cameras(5, 0.0)
    angles = panohead.angles()
    torch.testing.assert_close(angles.radius, torch.full((5,), 2.7, dtype=torch.float64))
    torch.testing.assert_close(angles.roll_deg, torch.zeros(5, dtype=torch.float64), atol=1e-6, rtol=0)
    # The sampler: phi = arccos(1 - 2 v/pi) with v = pi/2 - 0.2, so the height is 2.7 · 0.4/pi.
    pitch = math.degrees(math.asin(0.4 / math.pi))
    torch.testing.assert_close(angles.pitch_deg, torch.full((5,), pitch, dtype=torch.float64))
    yaw = torch.tensor([0.0, -45, -90, -135, -180], dtype=torch.float64)
    torch.testing.assert_close((angles.yaw_deg - yaw + 180) % 360 - 180, torch.zeros(5).double(), atol=1e-6, rtol=0)
    pivot = eg3d.project(torch.tensor([[0.0, 0.0, 0.2]], dtype=torch.float64))
    torch.testing.assert_close(pivot[:, 0], torch.full((3, 2), 0.5, dtype=torch.float64))
    assert eg3d.cam2world[0, 0, 3] > 0 > eg3d.cam2world[2, 0, 3]
    assert float(eg3d.intrinsics[0, 0, 0]) == pytest.approx(FOCAL, abs=2e-3)


def test_images_alone_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    with pytest.raises(ConfigError, match=r"neither a dataset\.json, nor labels beside its images"):
        plan_generated(tmp_path, None)
