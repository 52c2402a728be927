from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nvb_core.align import CropBox, crop_image
from nvb_core.cameras import DEFAULT_FOV_DEG, Cameras
from nvb_core.errors import ConfigError
from nvb_core.images import load_image
from training.data import to_float, write_index
from training.evaluation import cli, inputs
from training.evaluation.face_folder import FolderBenchmark, choose_views, target_cameras
from training.evaluation.measure import degrade_input
from training.evaluation.metrics import warped_psnr

SIZE, MARGIN = 32, 1.25
YAWS_DEG = {"018-a": (30.0, -20.0, 4.0), "018-b": (-3.0, 25.0), "020": (10.0,)}
SPLITS = {"018-a": "test", "018-b": "test", "020": "train"}


def make_folder(folder: Path, side: int = 40, kind: str = "nersemble", split: bool = True) -> dict[str, Tensor]:
    """Soft noise of subjects seen from YAWS_DEG; returns each one's pictures (N, 3, side, side) uint8."""
    rng = torch.Generator().manual_seed(0)
    pictures, paths, subjects = {}, [], []
    for subject, yaws in YAWS_DEG.items():
        coarse = torch.rand(len(yaws), 3, 6, 6, generator=rng) * 255
        soft = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 255)
        pictures[subject] = soft.round().to(torch.uint8)
        (folder / subject).mkdir(parents=True)
        for i, image in enumerate(pictures[subject]):
            paths.append(f"{subject}/{i}.png")
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / paths[-1])
            subjects.append(subject)
    intrinsics = Cameras.from_angles([yaw for yaws in YAWS_DEG.values() for yaw in yaws], 5.0, fov_deg=DEFAULT_FOV_DEG)
    labels = intrinsics.to_eg3d()
    labels[:, [16, 20]] /= MARGIN
    meta = {"converted_from": kind, "margin": MARGIN}
    write_index(folder, paths, labels, subjects, meta, [SPLITS[name] for name in subjects] if split else ())
    return pictures


def yaws(cameras: Cameras) -> list[float]:
    return [round(value, 6) for value in cameras.angles().yaw_deg.tolist()]


def test_the_most_frontal_picture_is_the_input(tmp_path: Path) -> None:
    pictures = make_folder(tmp_path)
    benchmark = FolderBenchmark(tmp_path, "test", None, SIZE)
    assert benchmark.names == {0: "018-a", 1: "018-b"}
    face = benchmark.load(0)
    centre = to_float(pictures["018-a"][..., 4:36, 4:36])  # the canonical 32 of 40 pixels
    assert torch.equal(face.image, centre[2])
    assert torch.equal(face.targets, centre[:2])
    assert yaws(face.cameras.input) == [4]
    assert yaws(face.cameras.targets) == yaws(target_cameras(benchmark, 0)) == [30, -20]
    torch.testing.assert_close(face.cameras.input.intrinsics, Cameras.from_angles(0.0).intrinsics)
    assert yaws(face.cameras.pair) == [10, 15]
    assert warped_psnr(*face.pair) is None
    assert not torch.equal(degrade_input(face, 2), face.image)


def test_pictures_of_any_size_are_resampled(tmp_path: Path) -> None:
    pictures = make_folder(tmp_path)
    whole = to_float(pictures["018-b"][0])
    for size in (16, 48):
        face = FolderBenchmark(tmp_path, "test", None, size).load(1)
        assert torch.equal(face.image, crop_image(whole, CropBox(20, 20, 32), size))
    assert FolderBenchmark(tmp_path, "test", None, 16).settings.canonical_px == 32


def test_frontal_and_spread_views() -> None:
    cameras = Cameras.from_angles([40, -1, 20, 0, -20, -40, 10], [0, 0, 0, 15, 0, 0, 0])
    assert choose_views(cameras) == (1, [0, 2, 3, 4, 5, 6])
    by_yaw = [5, 4, 3, 6, 2, 0]
    assert choose_views(cameras, 6) == choose_views(cameras, 9) == choose_views(cameras)
    assert choose_views(cameras, 3) == (1, sorted([by_yaw[1], by_yaw[3], by_yaw[5]]))
    assert choose_views(cameras, 1) == (1, [6])


def test_copies_and_mirrored_pictures_are_no_views(tmp_path: Path) -> None:
    make_folder(tmp_path, kind="eg3d")  # whose subjects are one photo each
    with pytest.raises(ConfigError, match=r"no subject of split test has two pictures .*mirrored ones and copies"):
        FolderBenchmark(tmp_path, "test", None, SIZE)


def test_a_subject_with_one_view_is_left_out(tmp_path: Path) -> None:
    make_folder(tmp_path)
    index = json.loads((tmp_path / "dataset.json").read_text())
    index["labels"][4] = index["labels"][3]
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    assert FolderBenchmark(tmp_path, "test", None, SIZE).names == {0: "018-a"}
    with pytest.raises(ConfigError, match="no subject of split train has two pictures"):
        FolderBenchmark(tmp_path, "train", None, SIZE)


def test_key_stands_for_the_pictures_and_not_for_their_place(tmp_path: Path) -> None:
    keys = []
    for name in ("a", "b"):
        make_folder(tmp_path / name)
        keys.append(FolderBenchmark(tmp_path / name, "test", None, SIZE).key)
    assert keys[0] == keys[1]
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "b/018-a/0.png")
    assert FolderBenchmark(tmp_path / "b", "test", None, SIZE).key != keys[0]
    assert FolderBenchmark(tmp_path / "a", "test", 1, SIZE).key != keys[0]
    painted = tmp_path / "a/018-a/0.png"
    content, times = painted.read_bytes(), (painted.stat().st_atime_ns, painted.stat().st_mtime_ns)
    painted.write_bytes(content[:-20] + b"?" * 20)  # as many bytes, and as old
    os.utime(painted, ns=times)
    assert FolderBenchmark(tmp_path / "a", "test", None, SIZE).key != keys[0]
    assert FolderBenchmark(tmp_path / "a", "all", None, SIZE).key != keys[0]


def evaluate(weights: Path, folder: Path, out: Path, *more: str) -> dict[str, object]:
    fixed = ["--weights", str(weights), "--data", str(folder), "--out", str(out), "--steps", "2", "--device", "cpu"]
    assert cli.main([*fixed, *more]) == 0
    report: dict[str, object] = json.loads((out / "report.json").read_text())
    return report


def test_evaluation_of_a_folder(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = make_folder(tmp_path / "faces")
    copies(pictures, tmp_path / "true")
    report = evaluate(weights, tmp_path / "faces", tmp_path / "out", "--method", f"true={tmp_path / 'true'}")
    assert "2 subjects of faces" in capsys.readouterr().out
    figures, true = report["figures"], report["methods"]["true"]["figures"]  # type: ignore[index]
    assert list(figures) == list(true)
    assert true["psnr"]["value"] == true["restored_psnr"]["value"] == 100
    assert true["flow_share"]["value"] == 1  # the same picture twice
    assert figures["psnr"]["value"] < 30
    assert 0 <= figures["flow_share"]["value"] <= 1
    assert {"pair_psnr", "true_pair_psnr", "identity_margin", "niqe"}.isdisjoint(figures)
    assert all(figure["passed"] is None for figure in figures.values())
    assert report["names"] == {"0": "018-a", "1": "018-b"}
    page = (tmp_path / "out/report.md").read_text()
    assert "2 subjects of faces, of 1–2 views each. Settings: data faces, split test, image_size 32" in page
    assert "| bar |" not in page
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        assert sheet.width == 3 * SIZE + 8  # as wide as the wider strip


def copies(pictures: dict[str, Tensor], folder: Path) -> None:
    """What a system that knew the truth would hand in."""
    orders: dict[str, Sequence[int]] = {"018-a": (2, 0, 1), "018-b": (0, 1)}
    for seed, (subject, order) in enumerate(orders.items()):
        (folder / f"{seed:08d}").mkdir(parents=True)
        names = ["input", *(f"view_{i:02d}" for i in range(len(order) - 1)), "pair_0", "pair_1"]
        for name, i in zip(names, [*order, 0, 0], strict=True):
            centre = pictures[subject][i, :, 4:36, 4:36].permute(1, 2, 0)
            Image.fromarray(centre.numpy()).save(folder / f"{seed:08d}/{name}.png")


def test_levels_and_comparison_of_a_folder(weights: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "faces")
    arguments = ["--weights", str(weights), "--data", str(tmp_path / "faces"), "--steps", "1", "--device", "cpu"]
    out = tmp_path / "out"
    assert cli.main([*arguments, "--level", "0", "2", "--identities", "1", "--out", str(out)]) == 0
    assert "1 subjects of faces" in (out / "report.md").read_text()
    folders = out.glob("results-*")
    [results] = [path for path in folders if json.loads((path / "settings.json").read_text())["level"] == 0]
    assert cli.main(["--compare", str(out / "level0"), str(results), "--out", str(tmp_path / "compared")]) == 0
    compared = json.loads((tmp_path / "compared/comparison.json").read_text())
    assert compared["seeds"] == [0]
    assert all(item["difference"] in (0, None) for item in compared["differences"])
    drawn = {path: path.stat().st_mtime_ns for path in out.glob("results-*/*.json")}
    assert cli.main([*arguments, "--level", "2", "--identities", "1", "--out", str(out)]) == 0  # is there already
    assert {path: path.stat().st_mtime_ns for path in out.glob("results-*/*.json")} == drawn
    with pytest.raises(ConfigError, match=r"--identities is 3, .*faces has 2"):
        cli.main([*arguments, "--identities", "3", "--out", str(out)])


def test_inputs_of_a_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "faces")
    out = tmp_path / "in"
    assert inputs.main(["--data", str(tmp_path / "faces"), "--size", "32", "--out", str(out)]) == 0
    written = json.loads((out / "inputs.json").read_text())
    assert written["names"] == {"00000000": "018-a", "00000001": "018-b"}
    benchmark = FolderBenchmark(tmp_path / "faces", "test", None, SIZE)
    for seed, count in ((0, 2), (1, 1)):
        face, folder = benchmark.load(seed), out / f"{seed:08d}"
        torch.testing.assert_close(
            load_image(folder / "input.png").pixels, degrade_input(face, 1), atol=1 / 255, rtol=0
        )
        cameras = json.loads((folder / "cameras.json").read_text())
        assert cameras["images"] == [
            "input.png",
            *(f"view_{i:02d}.png" for i in range(count)),
            "pair_0.png",
            "pair_1.png",
        ]
    assert not list(out.rglob("view_*"))
