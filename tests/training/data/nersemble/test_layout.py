from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvb_core.cameras import RADIUS
from nvb_core.errors import ConfigError
from tests.training.data.nersemble.made_up import INTRINSICS, SERIALS, camera_params, head_cameras, write_json
from training.data.nersemble.layout import participant_name, read_capture, read_rig


def write_empty(root: Path, participant: str = "017", sequence: str = "EXP-1-head") -> Path:
    """The layout with empty files for videos."""
    folder = root / participant
    write_json(folder / "calibration" / "camera_params.json", camera_params())
    write_json(folder / "calibration" / "color_calibration.json", dict.fromkeys(SERIALS, torch.eye(3, 4).tolist()))
    images = folder / "sequences" / sequence / "images"
    images.mkdir(parents=True)
    for serial in SERIALS:
        (images / f"cam_{serial}.mp4").touch()
    return folder


def reasons(root: Path, **options: Any) -> list[tuple[str, str]]:
    return [(entry.file, entry.reason) for entry in read_capture(root, **options).dropped]


def test_all_that_is_there(tmp_path: Path) -> None:
    write_empty(tmp_path)
    write_empty(tmp_path, "240", "EMO-1-shout+laugh")
    (tmp_path / "017" / "sequences" / "BACKGROUND").mkdir()
    (tmp_path / "metadata_participants.csv").touch()
    capture = read_capture(tmp_path)
    assert [recording.name for recording in capture.recordings] == ["017/EXP-1-head", "240/EMO-1-shout+laugh"]
    assert capture.dropped == ()
    recording = capture.recordings[0]
    assert recording.videos == {s: f"017/sequences/EXP-1-head/images/cam_{s}.mp4" for s in sorted(SERIALS)}
    assert torch.equal(recording.colours[SERIALS[0]], torch.eye(3, 4, dtype=torch.float64))
    assert recording.rig.full_size_px == (2200, 3208)


def test_selection(tmp_path: Path) -> None:
    write_empty(tmp_path)
    write_empty(tmp_path, "240")
    write_empty(tmp_path / "more", "018", "FREE")
    shutil.move(tmp_path / "more" / "018" / "sequences" / "FREE", tmp_path / "017" / "sequences" / "FREE")
    capture = read_capture(tmp_path, participants=["17"], sequences=["FREE"], color_correction=False)
    assert [(r.name, r.colours) for r in capture.recordings] == [("017/FREE", {})]
    assert reasons(tmp_path, sequences=["FREE"]) == [("240/sequences/FREE", "missing sequence")]
    with pytest.raises(ConfigError, match=r"no participant 018; .* nersemble-data download .* --participant 18"):
        read_capture(tmp_path, participants=["018"])
    with pytest.raises(ConfigError, match=r"missing sequence.*--sequence HAIR"):
        read_capture(tmp_path, sequences=["HAIR"])


def test_empty_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no participants .* run: nersemble-data download"):
        read_capture(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        read_capture(tmp_path / "gone")


def test_missing_serial_is_left_out(tmp_path: Path) -> None:
    folder = write_empty(tmp_path)
    params = camera_params()
    del params["world_2_cam"][SERIALS[1]]
    params["world_2_cam"][SERIALS[2]][0][0] += 0.01
    write_json(folder / "calibration" / "camera_params.json", params)
    colours = dict.fromkeys([*SERIALS[1:3]], torch.eye(3, 4).tolist()) | {SERIALS[0]: [[1.0] * 6] * 3}
    write_json(folder / "calibration" / "color_calibration.json", colours)
    (folder / "sequences" / "EXP-1-head" / "images" / "cam.txt").touch()
    (folder / "sequences" / "EXP-1-head" / "images" / f"cam_{SERIALS[3]}.mp4").unlink()
    capture = read_capture(tmp_path, color_correction=False)
    images = "017/sequences/EXP-1-head/images"
    assert sorted(capture.recordings[0].videos) == [SERIALS[0]]
    assert sorted((e.file, e.reason) for e in capture.dropped) == [
        (f"{images}/cam.txt", "not a camera's video"),
        (f"{images}/cam_{SERIALS[2]}.mp4", "bad camera"),
        (f"{images}/cam_{SERIALS[3]}", "camera without video"),
        (f"{images}/cam_{SERIALS[1]}.mp4", "camera without calibration"),
    ]
    with pytest.raises(ConfigError, match="nothing to convert"):
        read_capture(tmp_path)


def test_missing_colour_calibration(tmp_path: Path) -> None:
    write_empty(tmp_path)
    (write_empty(tmp_path, "018") / "calibration" / "color_calibration.json").unlink()
    capture = read_capture(tmp_path)
    assert [recording.participant for recording in capture.recordings] == ["017"]
    assert [(e.file, e.reason) for e in capture.dropped] == [("018", "unusable colour calibration")]
    assert "--no-color-correction" in capture.dropped[0].detail
    assert len(read_capture(tmp_path, color_correction=False).recordings) == 2


def test_rig_is_centred(tmp_path: Path) -> None:
    write_json(tmp_path / "camera_params.json", camera_params())
    rig = read_rig(tmp_path / "camera_params.json")
    poses = torch.cat([camera.cam2world for camera in rig.cameras.values()])
    # All look at one point 2.7 away; up to the rig's turn, they are where the head's cameras are.
    assert torch.allclose(poses[:, :3, 3], -RADIUS * poses[:, :3, 2], atol=1e-9)
    expected = head_cameras().cam2world
    turn = poses[0, :3, :3] @ expected[0, :3, :3].mT
    assert torch.allclose(poses[:, :3], turn @ expected[:, :3], atol=1e-9)
    k = rig.cameras[SERIALS[0]].intrinsics[0]
    assert k[0].tolist() == pytest.approx([8200 / 2200, 0, 1110 / 2200])
    assert k[1].tolist() == pytest.approx([0, 8190 / 3208, 1590 / 3208])


def test_pictures_the_other_way_round(tmp_path: Path) -> None:
    intrinsics = [[8200.0, 0.0, 1590.0], [0.0, 8190.0, 1110.0], [0.0, 0.0, 1.0]]
    write_json(tmp_path / "camera_params.json", camera_params() | {"intrinsics": intrinsics})
    assert read_rig(tmp_path / "camera_params.json").full_size_px == (3208, 2200)


def changed(row: int, column: int, value: float) -> list[list[float]]:
    rows = [list(values) for values in INTRINSICS]
    rows[row][column] = value
    return rows


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"intrinsics": changed(0, 0, 2.0)}, "focal lengths 2 and 8190 px"),
        ({"intrinsics": changed(0, 2, 550.0)}, r"principal point \(550, 1590\)"),
        ({"intrinsics": changed(0, 1, 3.0)}, "of the form"),
        ({"intrinsics": [1.0, 2.0]}, "intrinsics must be 3x3"),
        ({"intrinsics": changed(0, 0, float("nan"))}, "intrinsics must be 3x3 finite"),
        ({"world_2_cam": {}}, "no usable pose"),
        ({"world_2_cam": {"1": torch.eye(3).tolist()}}, "1: world_2_cam must be 4x4"),
        ({"world_2_cam": {"1": (-torch.eye(4)).tolist()}}, "right-handed"),
        ({"world_2_cam": {"1": torch.eye(4).tolist(), "2": torch.eye(4).tolist()}}, "axes don't meet"),
        ({"world_2_cam": [1]}, "must hold"),
    ],
)
def test_bad_calibration(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    path = tmp_path / "camera_params.json"
    write_json(path, camera_params() | change)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_rig(path)
    assert str(caught.value).startswith(str(path))


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), lambda inner: st.lists(inner)))
def test_any_json_is_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("rig") / "camera_params.json"
    path.write_text(json.dumps({"world_2_cam": {"1": value}, "intrinsics": INTRINSICS}))
    with pytest.raises(ConfigError):
        read_rig(path)


def test_participant_names() -> None:
    assert [participant_name(text) for text in ("17", "017", "1234")] == ["017", "017", "1234"]
    with pytest.raises(ConfigError, match="must be a number"):
        participant_name("../17")
