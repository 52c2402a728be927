from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nvb_core.align import CropBox, crop_cameras
from nvb_core.cameras import Cameras
from nvb_core.cli import views
from nvb_core.cli.views import CameraOptions, ViewPlan, parse_numbers, plan_views
from nvb_core.errors import CameraError, ConfigError

SOURCE = Cameras.from_angles(20.0, -5.0)


def angles(**options: object) -> list[tuple[float, float]]:
    return [(round(y, 6) + 0.0, round(p, 6) + 0.0) for y, p in plan(**options).angles()]


def plan(**options: object) -> ViewPlan:
    return plan_views(CameraOptions(**options))  # type: ignore[arg-type]


def cameras_file(folder: Path, count: int) -> Path:
    path = folder / "cameras.json"
    path.write_text(json.dumps({"format": "nvb-cameras", "version": 1, "cameras": [{"yaw_deg": 7.0}] * count}))
    return path


def test_default_is_a_sweep_and_one_from_above() -> None:
    assert angles() == [(float(y), 0.0) for y in range(-45, 46, 15)] + [(0.0, 15.0)]


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [(0, 0)]), (2, [(0, 0), (0, 15)]), (3, [(-45, 0), (45, 0), (0, 15)])]
)
def test_spread_of_few_views(count: int, expected: list[tuple[float, float]]) -> None:
    assert angles(views=count) == expected


@pytest.mark.parametrize("path", ["spread", "sweep", "pitch", "orbit", "figure-eight", "spiral", "grid"])
@pytest.mark.parametrize("count", [1, 7, 12])
def test_every_path_gives_the_number_asked_for(path: str, count: int) -> None:
    assert len(angles(path=path, views=count)) == count


def test_grid_is_wider_than_tall() -> None:
    found = angles(path="grid", views=6)
    assert found == [(y, p) for p in (-20.0, 20.0) for y in (-45.0, 0.0, 45.0)]


def test_lists_of_angles() -> None:
    assert angles(yaw="-30,0 30", pitch="10") == [(-30, 10), (0, 10), (30, 10)]
    assert angles(yaw="\N{MINUS SIGN}5") == [(-5, 0)]
    assert angles(pitch="1,2") == [(0, 1), (0, 2)]


def test_keyframes_pass_through_the_keys() -> None:
    found = angles(path="keyframes", yaw="-40,0,40", views=5)
    assert found == [(-40, 0), (-20, 0), (0, 0), (20, 0), (40, 0)]


def test_roll_radius_and_fov_reach_views_and_turntable() -> None:
    resolved = plan(roll=3.0, radius=4.0, fov=20.0, turntable_frames=5).resolve(SOURCE)
    for cameras in resolved:
        assert cameras is not None
        found = cameras.angles()
        for value, expected in ((found.roll_deg, 3.0), (found.radius, 4.0), (found.fov_deg, 20.0)):
            assert torch.allclose(value, torch.full_like(value, expected))


def test_zero_in_frame_input_is_the_photos_camera() -> None:
    cameras, _ = plan(frame="input", yaw="0,10").resolve(SOURCE)
    assert torch.equal(cameras[0].to_eg3d(), SOURCE.to_eg3d())
    assert cameras[1].angles().yaw_deg.item() == pytest.approx(30)


def test_turntable_swings_over_the_whole_range() -> None:
    _, turntable = plan(turntable_frames=9).resolve(SOURCE)
    assert turntable is not None
    yaw = turntable.angles().yaw_deg
    assert yaw[[0, 4, 8]].tolist() == pytest.approx([-45, 0, 45])
    assert (yaw.diff() > 0).all()
    assert plan(turntable=False).resolve(SOURCE)[1] is None


def test_cameras_from_a_file(tmp_path: Path) -> None:
    path = cameras_file(tmp_path, 2)
    assert angles(cameras=path) == [(7, 0), (7, 0)]
    assert len(plan(cameras=path).resolve(SOURCE)[0]) == 2


def test_source_camera_of_the_crop() -> None:
    camera = plan(source_camera="15,-5").source_of_crop(CropBox(1, 2, 3), 10, 10)
    assert camera is not None
    assert camera.angles().yaw_deg.item() == pytest.approx(15)
    assert plan().source_of_crop(CropBox(1, 2, 3), 10, 10) is None


def test_source_camera_of_the_whole_photo_follows_the_crop(tmp_path: Path) -> None:
    box = CropBox(60, 40, 50)
    camera = plan(source_camera=str(cameras_file(tmp_path, 1))).source_of_crop(box, 100, 80)
    assert camera is not None
    assert torch.equal(camera.to_eg3d(), crop_cameras(Cameras.from_angles(7.0), box, 100, 80).to_eg3d())


def test_requests_differ_with_every_option_that_changes_the_pictures(tmp_path: Path) -> None:
    changed: list[dict] = [
        {},
        {"views": 7},
        {"path": "orbit"},
        {"yaw": "5"},
        {"roll": 1.0},
        {"radius": 3.0},
        {"fov": 15.0},
        {"frame": "input"},
        {"cameras": cameras_file(tmp_path, 1)},
        {"source_camera": "1,2"},
        {"turntable": False},
        {"turntable_frames": 5},
    ]
    requests = [json.dumps(plan(**options).request()) for options in changed]
    assert len(set(requests)) == len(changed)
    assert requests == [json.dumps(plan(**options).request()) for options in changed]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": 0}, "--views 0 is outside 1 to 1000"),
        ({"views": 10_000}, "--views 10000 is outside 1 to 1000"),
        ({"views": -3, "path": "grid"}, "--views -3"),
        ({"yaw": "a,b"}, "--yaw 'a,b' is not a list of numbers"),
        ({"yaw": "nan"}, "--yaw 'nan'"),
        ({"pitch": "1,inf"}, "--pitch '1,inf'"),
        ({"yaw": ""}, "--yaw ''"),
        ({"yaw": "1,2,3", "pitch": "1,2"}, "--yaw has 3 values and --pitch 2"),
        ({"yaw": "0," * 1001}, "1001 views"),
        ({"yaw": "1", "views": 3}, "--views 3 and --yaw"),
        ({"yaw": "1", "path": "orbit"}, "--path orbit and --yaw"),
        ({"path": "keyframes"}, "needs key poses"),
        ({"turntable_frames": 1}, "--turntable-frames 1 is outside 2 to 1000"),
        ({"turntable_frames": 1001}, "--turntable-frames 1001"),
        ({"source_camera": "1,2,3"}, "has 3 numbers"),
        ({"source_camera": "frontal"}, "--source-camera 'frontal'"),
    ],
)
def test_bad_options(options: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"radius": 0.1}, {"radius": float("nan")}, {"fov": 180.0}, {"fov": -1.0}, {"roll": float("inf")}]
)
def test_impossible_cameras(options: dict) -> None:
    with pytest.raises(CameraError):
        plan(**options)


@pytest.mark.parametrize("name", ["views", "path", "yaw", "radius", "roll", "frame"])
def test_a_camera_file_excludes_other_options(tmp_path: Path, name: str) -> None:
    value = {"views": 3, "path": "orbit", "yaw": "1", "radius": 3.0, "roll": 1.0, "frame": "input"}[name]
    with pytest.raises(ConfigError, match=f"--cameras and --{name} exclude each other"):
        plan(cameras=cameras_file(tmp_path, 1), **{name: value})


def test_too_many_cameras_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "MAX_VIEWS", 3)
    with pytest.raises(ConfigError, match="4 cameras; expected at most 3"):
        plan(cameras=cameras_file(tmp_path, 4), turntable=False)


def test_bad_camera_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 cameras; expected exactly 1"):
        plan(source_camera=str(cameras_file(tmp_path, 2)))
    with pytest.raises(CameraError, match=r"missing\.json"):
        plan(cameras=tmp_path / "missing.json")


def test_behind_the_head_is_allowed() -> None:
    assert angles(yaw="180") == [(180, 0)]


def test_parse_numbers() -> None:
    assert parse_numbers("1, -2.5e1\t3", "--x") == [1, -25, 3]
