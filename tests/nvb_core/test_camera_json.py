from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvb_core.camera_json import cameras_to_object, read_cameras
from nvb_core.cameras import Cameras
from nvb_core.errors import CameraError

BATCH = Cameras.from_angles([0.0, 30.0, -170.0], [5.0, -20.0, 89.0], [0.0, 10.0, -3.0], 2.7, [13.4, 20.0, 60.0])


def document(*entries: Any, **changes: Any) -> dict[str, Any]:
    return {"format": "nvb-cameras", "version": 1, "cameras": list(entries)} | changes


def test_round_trip_through_a_file_is_lossless(tmp_path: Path) -> None:
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps(cameras_to_object(BATCH)), encoding="utf-8")
    for source in (file, str(file), cameras_to_object(BATCH), file.read_text(encoding="utf-8")):
        assert torch.equal(read_cameras(source).to_eg3d(), BATCH.to_eg3d())


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps(cameras_to_object(BATCH)), encoding="utf-8-sig")
    assert torch.equal(read_cameras(file).to_eg3d(), BATCH.to_eg3d())


def test_written_form() -> None:
    written = cameras_to_object(BATCH)
    assert (written["format"], written["version"], len(written["cameras"])) == ("nvb-cameras", 1, 3)
    entry = written["cameras"][1]
    assert set(entry) == {"cam2world", "intrinsics", "yaw_deg", "pitch_deg", "roll_deg", "radius", "fov_deg"}
    assert [entry[k] for k in ("yaw_deg", "pitch_deg", "roll_deg", "radius", "fov_deg")] == pytest.approx(
        [30, -20, 10, 2.7, 20], abs=1e-6
    )


def test_entries_of_angles_alone() -> None:
    read = read_cameras(document({"yaw_deg": 10, "pitch_deg": -5}, {"yaw_deg": -3, "radius": 3.0, "fov_deg": 20.5}))
    expected = Cameras.cat([Cameras.from_angles(10, -5), Cameras.from_angles(-3, radius=3.0, fov_deg=20.5)])
    assert torch.equal(read.to_eg3d(), expected.to_eg3d())


def test_matrices_win_over_angles() -> None:
    entry = cameras_to_object(BATCH[1])["cameras"][0] | {"yaw_deg": 77.0}
    assert torch.equal(read_cameras(document(entry)).to_eg3d(), BATCH[1].to_eg3d())


GOOD = cameras_to_object(BATCH[0])["cameras"][0]
FRONTAL_INSIDE = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.5], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object"),
        ({}, "format: expected 'nvb-cameras', found None"),
        (document(GOOD, format="eg3d"), "format: expected 'nvb-cameras', found 'eg3d'"),
        (document(GOOD, version=2), "version: expected 1, found 2"),
        (document(), "cameras: expected a list of at least one camera"),
        (document(GOOD, cameras={}), "cameras: expected a list"),
        (document(GOOD, 5), r"cameras\[1\]: expected an object, found 5"),
        (document({}), r"cameras\[0\]: needs cam2world and intrinsics, or yaw_deg"),
        (document(GOOD, {"yaw_deg": "10"}), r"cameras\[1\].yaw_deg: expected a finite number, found '10'"),
        (document({"yaw_deg": True}), r"cameras\[0\].yaw_deg: expected a finite number"),
        (document({"yaw_deg": float("nan")}), r"cameras\[0\].yaw_deg: expected a finite number"),
        (document({"yaw_deg": 10**400}), r"cameras\[0\].yaw_deg: expected a finite number"),
        (document({"yaw_deg": 0, "radius": 0.1}), r"cameras\[0\]: radius 0.1 must be above 0.7"),
        (
            document({"cam2world": GOOD["cam2world"]}),
            r"cameras\[0\].intrinsics: expected 3×3 finite numbers, found None",
        ),
        (document(GOOD | {"cam2world": [[1, 2], [3, 4]]}), r"cameras\[0\].cam2world: expected 4×4 finite numbers"),
        (document(GOOD | {"intrinsics": [[None] * 3] * 3}), r"cameras\[0\].intrinsics: expected 3×3 finite numbers"),
        (document(GOOD, GOOD | {"cam2world": FRONTAL_INSIDE}), r"cameras\[1\]: distance from the origin 0.5 must be"),
    ],
)
def test_bad_content_names_file_and_key(content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CameraError, match=message) as caught:
        read_cameras(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_files_that_are_not_json(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(text)
    with pytest.raises(CameraError, match=r"bad.json: not JSON"):
        read_cameras(file)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"nowhere.json: cannot be read"):
        read_cameras(tmp_path / "nowhere.json")
    with pytest.raises(CameraError, match="cannot be read"):
        read_cameras(tmp_path)


def test_text_that_is_not_json() -> None:
    with pytest.raises(CameraError, match="camera JSON: not JSON"):
        read_cameras('{"format": nvb}')


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(sorted(GOOD)), inner, max_size=3),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(st.lists(values, max_size=3))
def test_any_content_gives_cameras_or_a_camera_error(entries: list[Any]) -> None:
    try:
        read = read_cameras(document(*entries))
    except CameraError:
        return
    assert len(read) == len(entries)
