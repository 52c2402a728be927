from __future__ import annotations

import pytest
import torch

from nvb_core import detect
from nvb_core.align import CropBox, default_box
from nvb_core.cli.faces import FaceOptions, plan_faces
from nvb_core.detect import FaceBox
from nvb_core.errors import ConfigError, FaceNotFoundError

PHOTO = torch.zeros(3, 100, 200)
FOUND = [FaceBox(10, 10, 50), FaceBox(120, 20, 30)]


@pytest.fixture(autouse=True)
def _two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "detect_faces", lambda pixels, every_size: FOUND[: len(FOUND) if every_size else 1])


@pytest.mark.parametrize(("face", "expected"), [("largest", FOUND[:1]), ("all", FOUND), ("1", FOUND[1:])])
def test_found_faces(face: str, expected: list[FaceBox]) -> None:
    assert plan_faces(FaceOptions(face=face)).boxes(PHOTO) == [default_box(box) for box in expected]


def test_a_face_that_is_not_there() -> None:
    with pytest.raises(FaceNotFoundError):
        plan_faces(FaceOptions(face="2")).boxes(PHOTO)


def test_given_box_and_centre_need_no_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "detect_faces", lambda *_, **__: pytest.fail("looked for faces"))
    assert plan_faces(FaceOptions(box="150,50,50")).boxes(PHOTO) == [default_box(FaceBox(150, 50, 50))]
    assert plan_faces(FaceOptions(center=True)).boxes(PHOTO) == [CropBox(100, 50, 100)]


@pytest.mark.parametrize("box", ["160,10,50", "10,60,50", "0,0,101"])
def test_box_must_lie_inside_the_photo(box: str) -> None:
    with pytest.raises(ConfigError, match=f"--box {box} leaves the photo of 200×100 pixels"):
        plan_faces(FaceOptions(box=box)).boxes(PHOTO)


@pytest.mark.parametrize("box", ["1,2", "1,2,3,4", "-1,0,10", "0,-1,10", "0,0,0", "0,0,nan", "face", "1e308,0,1e400"])
def test_malformed_box(box: str) -> None:
    with pytest.raises(ConfigError, match="--box"):
        plan_faces(FaceOptions(box=box))


@pytest.mark.parametrize("face", ["-1", "1.5", "smallest", "", "9" * 5000])
def test_malformed_face(face: str) -> None:
    with pytest.raises(ConfigError, match=r"--face .* must be largest, all or a number"):
        plan_faces(FaceOptions(face=face))


@pytest.mark.parametrize(
    "options",
    [FaceOptions(face="all", center=True), FaceOptions(box="1,1,9", center=True), FaceOptions(face="0", box="1,1,9")],
)
def test_contradicting_options(options: FaceOptions) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        plan_faces(options)
