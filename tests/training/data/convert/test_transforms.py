from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core.cameras import FOCAL, Cameras
from nvb_core.errors import ConfigError
from nvb_core.transforms_json import transforms_object
from tests.training.data.convert.made_up import pixels_of
from training.data import FaceFolder, read_index
from training.data.convert.run import run
from training.data.convert.transforms import plan_transforms, read_similarity

WIDTH, HEIGHT = 160, 120
POINT = torch.tensor([[0.1, 0.05, 0.12]], dtype=torch.float64)  # drawn as a dot in every picture
CAMERAS = Cameras.from_angles([-25.0, 0.0, 35.0], [5.0, 0.0, -10.0], radius=[2.7, 2.5, 3.0], fov_deg=30.0)


def wide(cameras: Cameras) -> Cameras:
    """Square pixels in a WIDTH × HEIGHT picture, off-centre principal point."""
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 1, 1] *= WIDTH / HEIGHT
    intrinsics[:, 0, 2] += 0.03
    return Cameras(cameras.cam2world, intrinsics)


def write_scene(folder: Path, cameras: Cameras = CAMERAS, move: torch.Tensor | None = None) -> None:
    """What nvb-face's own exporter (nerfstudio's form) writes, pictures of a dot, the scene moved by `move`."""
    cameras = wide(cameras)
    files = [f"images/{i:04d}.png" for i in range(len(cameras))]
    (folder / "images").mkdir(parents=True)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for file, (u, v) in zip(files, cameras.project(POINT)[:, 0].tolist(), strict=True):
        dot = 255 * np.exp(-((x - u * WIDTH) ** 2 + (y - v * HEIGHT) ** 2) / 8)
        Image.fromarray(np.repeat(dot[..., None], 3, axis=2).astype(np.uint8)).save(folder / file)
    content = transforms_object(cameras, files, WIDTH, HEIGHT)
    if move is not None:
        for frame in content["frames"]:
            frame["transform_matrix"] = (move @ torch.tensor(frame["transform_matrix"], dtype=torch.float64)).tolist()
    (folder / "transforms.json").write_text(json.dumps(content))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "transforms.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_dots(out: Path, size: int) -> None:
    """Every written picture shows the dot where its label says."""
    index = read_index(out)
    for path, (u, v) in zip(index.paths, Cameras.from_eg3d(index.labels).project(POINT)[:, 0].tolist(), strict=True):
        weights = pixels_of(out / path)[..., 0].astype(float)
        y, x = np.mgrid[:size, :size] + 0.5
        seen = np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()
        np.testing.assert_allclose(seen, [u * size, v * size], atol=0.3)


def test_a_picture_with_two_cameras_is_left_out(tmp_path: Path) -> None:
    write_scene(tmp_path / "anna")
    frames = json.loads((tmp_path / "anna" / "transforms.json").read_text())["frames"]
    other = {**frames[1], "transform_matrix": frames[2]["transform_matrix"]}
    edit(tmp_path / "anna", frames=[*frames, frames[0], other])  # the first only said twice
    report = run(plan_transforms(tmp_path / "anna", None, 1.25), tmp_path / "out", 40, 2, show_progress=False)
    assert read_index(tmp_path / "out").paths == ("anna/images-0000.png", "anna/images-0002.png")
    assert [(e.file, e.reason) for e in report.dropped] == [(frames[1]["file_path"], "several labels for one image")]


def test_heads_are_cropped_with_exact_cameras(tmp_path: Path) -> None:
    write_scene(tmp_path / "anna")
    report = run(plan_transforms(tmp_path / "anna", None, 1.25), tmp_path / "out", 40, 2, show_progress=False)
    assert (report.images, report.subjects, report.side_px, report.dropped) == (3, 1, 50, ())
    index = read_index(tmp_path / "out")
    assert index.paths[0] == "anna/images-0000.png"
    assert index.meta["margin"] == 1.25
    cameras = Cameras.from_eg3d(index.labels)
    torch.testing.assert_close(cameras.cam2world, CAMERAS.cam2world)
    torch.testing.assert_close(
        cameras.project(torch.zeros(1, 3, dtype=torch.float64))[:, 0], torch.full((3, 2), 0.5).double()
    )
    distance = torch.tensor([2.7, 2.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(cameras.intrinsics[:, 0, 0], FOCAL * distance / 2.7 / 1.25)
    torch.testing.assert_close(cameras.intrinsics[:, 1, 1], cameras.intrinsics[:, 0, 0])
    assert_dots(tmp_path / "out", 50)
    assert FaceFolder.load(tmp_path / "out", 40).sources[0].canonical_px == 40


def test_a_scene_elsewhere_is_moved_by_the_given_similarity_alone(tmp_path: Path) -> None:
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -0.3, 0.2], [0.3, 0, -1.1], [-0.2, 1.1, 0]], dtype=torch.float64))
    away = torch.eye(4, dtype=torch.float64)  # rotation and scale of the scene's points; cameras keep unit axes
    away[:3, :3], away[:3, 3] = 20 * turn, torch.tensor([3.0, -50.0, 8.0], dtype=torch.float64)
    write_scene(tmp_path / "src", move=away)
    content = json.loads((tmp_path / "src" / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["transform_matrix"] = [[v / 20 for v in row[:3]] + row[3:] for row in frame["transform_matrix"][:3]]
    edit(tmp_path / "src", frames=content["frames"])  # 3×4, as some writers do
    with pytest.raises(ConfigError, match=r"isn't in EG3D's space .* from the origin.*--similarity"):
        plan_transforms(tmp_path / "src", None, 1.0)
    (tmp_path / "back.json").write_text(json.dumps(torch.linalg.inv(away).tolist()))
    run(plan_transforms(tmp_path / "src", tmp_path / "back.json", 1.25), tmp_path / "out", 40, 1, show_progress=False)
    torch.testing.assert_close(Cameras.from_eg3d(read_index(tmp_path / "out").labels).cam2world, CAMERAS.cam2world)
    assert_dots(tmp_path / "out", 50)
    (tmp_path / "wrong.json").write_text(json.dumps(torch.eye(4).tolist()))
    with pytest.raises(ConfigError, match="correct the matrix"):
        plan_transforms(tmp_path / "src", tmp_path / "wrong.json", 1.0)


def test_a_folder_for_each_subject_and_intrinsics_for_each_frame(tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        write_scene(tmp_path / "src" / name)
    content = json.loads((tmp_path / "src" / "ben" / "transforms.json").read_text())
    own = {key: content[key] for key in ("fl_x", "cx", "cy")}
    frames = [{**frame, **own} for frame in content["frames"]]
    frames[0]["file_path"] = "./images/0000"  # instant-ngp leaves the suffix out
    frames[1]["file_path"] = "images\\0001.png"
    straight = {"k1": 0.0, "camera_model": "OPENCV", "is_fisheye": False, "distortion_params": [0, 0.0]}
    shared = {"w": WIDTH, "h": HEIGHT, **straight, "frames": frames}
    (tmp_path / "src" / "ben" / "transforms.json").write_text(json.dumps(shared))
    report = run(plan_transforms(tmp_path / "src", None, 1.25), tmp_path / "out", 40, 1, show_progress=False)
    assert (report.images, report.subjects) == (6, 2)
    index = read_index(tmp_path / "out")
    assert set(index.subjects) == {"anna", "ben"}
    torch.testing.assert_close(index.labels[:3], index.labels[3:])


def test_what_is_dropped(tmp_path: Path) -> None:
    write_scene(
        tmp_path / "src", Cameras.from_angles([0.0] * 7, radius=[2.7, 2.7, 2.7, 2.7, 2.7, 9.0, 2.7], fov_deg=30.0)
    )
    frames = json.loads((tmp_path / "src" / "transforms.json").read_text())["frames"]
    frames[1]["transform_matrix"][0][0] = 1.5
    frames[2]["transform_matrix"] = "none"
    frames[3]["transform_matrix"][0][3] = 0.8  # looks past the head
    (tmp_path / "src" / "images" / "0004.png").unlink()
    Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(tmp_path / "src" / "images" / "0006.png")
    edit(tmp_path / "src", frames=frames)
    report = run(plan_transforms(tmp_path / "src", None, 1.0), tmp_path / "out", 32, 1, show_progress=False)
    assert report.images == 1
    assert {entry.file[7:11]: entry.reason for entry in report.dropped} == {
        "0001": "bad camera",
        "0002": "bad camera",
        "0003": "head not in the picture",
        "0004": "label without image",
        "0005": "camera too near or too far for EG3D's space",
        "0006": "size differs from its label's",
    }


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"k1": 0.1}, r"k1 is 0\.1: distorted; undistort the pictures first"),
        ({"p2": -1e-9}, "p2 is"),
        ({"is_fisheye": True}, "is_fisheye is True: distorted"),
        ({"distortion_params": [0.0, 0.1, 0, 0]}, r"distortion_params is \[0\.0, 0\.1, 0, 0\]: distorted"),
        ({"camera_model": "OPENCV_FISHEYE"}, "'OPENCV_FISHEYE' is no pinhole"),
        ({"fl_x": None}, "fl_x is None, must be a positive number"),
        ({"w": 0}, "w is 0, must be"),
        ({"w": 0.2}, "w and h are 0.2 and 120, must be whole pixels"),
        ({"w": 10**400}, "w is 1000.*, must be a positive number"),
        ({"frames": None}, "frames"),
        ({"frames": [{}]}, r"frames\[0\]: must be an object with a file_path"),
        ({"frames": [{"file_path": "../x.png"}]}, "must lie inside"),
        ({"frames": [{"file_path": "..\\x.png"}]}, "must lie inside"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    write_scene(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ConfigError, match=complaint) as error:
        plan_transforms(tmp_path, None, 1.0)
    assert "transforms.json" in str(error.value)


@pytest.mark.parametrize("name", ["x" * 300, "", ".", "images/"])
def test_odd_names_are_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_scene(tmp_path)
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    frames[1]["file_path"] = name
    edit(tmp_path, frames=frames)
    monkeypatch.chdir(tmp_path)
    assert [entry.reason for entry in plan_transforms(Path("."), None, 1.0).dropped] == ["label without image"]


@pytest.mark.parametrize("change", [{"is_fisheye": True}, {"distortion_params": [0.1, 0, 0, 0]}, {"k1": 0.1}])
def test_a_distorted_frame_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write_scene(tmp_path)
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    edit(tmp_path, frames=[frames[0], {**frames[1], **change}])
    with pytest.raises(ConfigError, match=r"frames\[1\]: .*: distorted"):
        plan_transforms(tmp_path, None, 1.0)


def test_no_scene(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no transforms\.json"):
        plan_transforms(tmp_path, None, 1.0)
    with pytest.raises(ConfigError, match="--margin is 3"):
        plan_transforms(tmp_path, None, 3.0)


@pytest.mark.parametrize(
    ("matrix", "complaint"),
    [
        ([[1, 0], [0, 1]], "4x4 matrix of finite"),
        ("x", "4x4 matrix of finite"),
        ([[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "a rotation times a positive scale"),
        ([[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "a rotation times a positive scale"),
        ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2]], "last row"),
        ([[1, 0, 0, math.nan], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "finite"),
    ],
)
def test_bad_similarities(tmp_path: Path, matrix: Any, complaint: str) -> None:
    (tmp_path / "m.json").write_text(json.dumps(matrix))
    with pytest.raises(ConfigError, match=complaint):
        read_similarity(tmp_path / "m.json")
