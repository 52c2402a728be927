from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core.align import CropBox
from nvb_core.cameras import Cameras
from nvb_core.errors import OccupiedError, OutputError
from nvb_core.outputs import (
    FaceResult,
    camera_records,
    is_finished,
    may_replace,
    other_source,
    ping_pong,
    read_manifest,
    remove_face,
    video_size,
    view_name,
    write_face,
    write_mp4,
)
from nvb_core.provenance import Provenance, read_png

RECORD = Provenance("tiny", "ab" * 32, "0.1.0", seed=3, steps=2, eta=0.0, source="Zoë.jpg", source_sha256="cd" * 32)
REQUEST = {"seed": 3, "box": (1.5, 2)}


def face_result(turntable_frames: int = 3) -> FaceResult:
    cameras, swing = Cameras.from_angles([-30.0, 0.0, 30.0], [0.0, -10.0, 5.0]), Cameras.from_angles([-5.0, 0.0, 5.0])
    return FaceResult(
        views=torch.linspace(-1, 1, 3)[:, None, None, None].expand(3, 3, 16, 16),
        cameras=cameras,
        angles=[(-30.0, 0.0), (0.0, -10.0), (30.0, 5.0)],
        frame="face",
        source_camera=Cameras.from_angles(12.0),
        crop=CropBox(10, 20, 30, 4),
        sheet=Image.new("RGB", (20, 10)),
        provenance=RECORD,
        request=REQUEST,
        turntable=torch.zeros(turntable_frames, 3, 16, 16) if turntable_frames else None,
        turntable_cameras=swing if turntable_frames else None,
        turntable_steps=3,
    )


def ffmpeg(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *arguments], capture_output=True, check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_face(face_result(), tmp_path)
    return tmp_path


def test_file_names(folder: Path) -> None:
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "cameras.json",
        "sheet.png",
        "turntable.mp4",
        "views/view_00_yaw-30.0_pitch+0.0.png",
        "views/view_01_yaw+0.0_pitch-10.0.png",
        "views/view_02_yaw+30.0_pitch+5.0.png",
    ]


def test_view_names_sort_by_index_and_have_no_negative_zero() -> None:
    names = [view_name(i, -0.01, 0.04 * i, count=1000) for i in range(1000)]
    assert names == sorted(names)
    assert names[3] == "view_003_yaw+0.0_pitch+0.1.png"


def test_views_hold_their_pixels_and_their_own_camera(folder: Path) -> None:
    records = camera_records(face_result().cameras)
    for value, path, record in zip((0, 128, 255), sorted(folder.glob("views/*.png")), records, strict=True):
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert (np.asarray(image) == value).all()
        assert read_png(path) == replace(RECORD, camera=record)
    assert records[1].pitch_deg == pytest.approx(-10)
    assert read_png(folder / "sheet.png") == RECORD


def test_cameras_json_is_a_camera_file_with_labels_per_image(folder: Path) -> None:
    cameras, written = face_result().cameras, Cameras.from_json(folder / "cameras.json")
    assert torch.equal(written.to_eg3d(), cameras.to_eg3d())
    manifest = json.loads((folder / "cameras.json").read_text())
    assert [name for name, _ in manifest["labels"]] == manifest["images"]
    assert torch.equal(torch.tensor([label for _, label in manifest["labels"]], dtype=torch.float64), cameras.to_eg3d())
    assert all((folder / name).is_file() for name in manifest["images"])
    assert manifest["angles"][1] == [0.0, -10.0]
    assert manifest["crop"] == {"center_x": 10, "center_y": 20, "size_px": 30, "roll_deg": 4}
    assert Cameras.from_json(manifest["source_camera"]).angles().yaw_deg.item() == pytest.approx(12)
    assert len(Cameras.from_json(manifest["turntable"])) == 3


def test_video_plays_everywhere_and_says_where_it_comes_from(folder: Path) -> None:
    video = str(folder / "turntable.mp4")
    decoded = ffmpeg("-i", video, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    stream = next(line for line in decoded.stderr.decode().splitlines() if "Video: h264" in line)
    assert "yuv420p" in stream
    assert "256x256" in stream
    assert "15 fps" in stream
    frames = np.frombuffer(decoded.stdout, np.uint8).reshape(-1, 256, 256, 3)
    assert len(frames) == 4  # 3 there, 1 back
    assert abs(int(frames[0].mean()) - 128) <= 2
    lines = ffmpeg("-v", "error", "-i", video, "-f", "ffmetadata", "-").stdout.decode().splitlines()
    tags = dict(line.split("=", 1) for line in lines if "=" in line)
    assert Provenance.from_json(tags["comment"].replace("\\", "")) == replace(RECORD, steps=3)
    assert "AI-generated" in tags["description"]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (128, 128, (256, 256)),
        (32, 32, (256, 256)),
        (512, 512, (512, 512)),
        (85, 97, (388, 340)),
        (257, 301, (300, 256)),
    ],
)
def test_video_size_is_even_and_at_least_256(height: int, width: int, expected: tuple[int, int]) -> None:
    assert video_size(height, width) == expected


def test_ping_pong_shows_turning_points_once() -> None:
    frames = torch.arange(4)[:, None]
    assert ping_pong(frames).flatten().tolist() == [0, 1, 2, 3, 2, 1]
    assert ping_pong(frames[:2]).flatten().tolist() == [0, 1]


def test_no_turntable(tmp_path: Path) -> None:
    write_face(face_result(0), tmp_path)
    assert not (tmp_path / "turntable.mp4").exists()
    assert json.loads((tmp_path / "cameras.json").read_text())["turntable"] is None
    assert is_finished(tmp_path, REQUEST)


def test_finished_means_same_request_and_all_files(folder: Path) -> None:
    assert is_finished(folder, REQUEST)
    assert not is_finished(folder, REQUEST | {"seed": 4})
    assert not is_finished(folder / "views", REQUEST)


@pytest.mark.parametrize("name", ["sheet.png", "turntable.mp4", "views/view_01_yaw+0.0_pitch-10.0.png"])
def test_not_finished_when_a_file_is_gone(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert not is_finished(folder, REQUEST)


def test_records_are_rounded_to_a_millionth() -> None:
    [record] = camera_records(Cameras.from_angles(12.3456789, -5.00000049))
    assert (record.yaw_deg, record.pitch_deg) == (12.345679, -5.0)


def test_only_what_was_written_may_be_replaced(folder: Path) -> None:
    assert not may_replace(folder / "views")  # no result
    for name in (".DS_Store", "Thumbs.db"):
        (folder / "views" / name).touch()
    (folder / "views" / "empty").mkdir()
    assert may_replace(folder)
    (folder / "views" / "mine.png").touch()
    with pytest.raises(OccupiedError, match=r"mine\.png: isn't of nvb-face"):
        may_replace(folder)


def test_a_video_that_was_not_asked_for_is_somebodys(folder: Path) -> None:
    manifest = json.loads((folder / "cameras.json").read_text())
    (folder / "cameras.json").write_text(json.dumps({**manifest, "turntable": None}))
    (folder / "turntable.mp4").write_bytes(b"mine")
    with pytest.raises(OccupiedError, match=r"turntable\.mp4: isn't of nvb-face"):
        remove_face(folder)
    assert (folder / "turntable.mp4").read_bytes() == b"mine"


@pytest.mark.parametrize("images", [None, 5, [1], "views/a.png"])
def test_a_manifest_of_something_else_is_none(folder: Path, images: Any) -> None:
    manifest = json.loads((folder / "cameras.json").read_text())
    (folder / "cameras.json").write_text(json.dumps({**manifest, "images": images}))
    assert read_manifest(folder) is None
    (folder / "cameras.json").write_text("[" * 100_000)
    assert read_manifest(folder) is None


def test_removing_a_result_leaves_other_files(folder: Path) -> None:
    (folder / "notes.txt").touch()
    remove_face(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_another_photos_result_is_told_by_its_hash(folder: Path) -> None:
    assert other_source(folder, "cd" * 32) is None
    assert other_source(folder, "ef" * 32) == "Zoë.jpg"
    assert other_source(folder / "views", "ef" * 32) is None


KEYS_ALONE = '{"request": {}, "images": [], "turntable": null, "provenance": "x"}'


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cameras": []}', "\x00", KEYS_ALONE])
def test_other_peoples_cameras_json_is_not_a_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "cameras.json").write_text(text)
    assert read_manifest(tmp_path) is None
    assert not is_finished(tmp_path, REQUEST)


@pytest.mark.parametrize("name", ["a:b.mp4", "-x.mp4", "http:.mp4"])
def test_names_that_ffmpeg_might_take_for_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mp4(torch.zeros(2, 3, 16, 16), Path(name), RECORD)
    assert (tmp_path / name).stat().st_size > 500


def test_failing_ffmpeg_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ffmpeg can't write the video \(.*No such file") as caught:
        write_mp4(torch.zeros(2, 3, 16, 16), tmp_path / "missing" / "a.mp4", RECORD)
    assert "\n" not in str(caught.value)
