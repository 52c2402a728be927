from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage import data
from torch import Tensor

from nvb_core.align import default_box
from nvb_core.detect import FaceBox, detect_faces, select_faces
from nvb_core.errors import FaceNotFoundError

EXAMPLE = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
FACE_X, FACE_Y, FACE_PX = 224, 117, 103  # of the example, by hand: the middle of brows to chin, and that height


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(EXAMPLE).convert("RGB")


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 127.5 - 1


def assert_face(box: FaceBox, x: float, y: float, size_px: float) -> None:
    assert math.hypot(box.x + box.size_px / 2 - x, box.y + box.size_px / 2 - y) < 0.15 * size_px
    assert 0.8 < box.size_px / size_px < 1.25


def test_the_example_has_one_face(photo: Image.Image) -> None:
    faces = detect_faces(pixels(photo))
    assert len(faces) == 1
    assert_face(faces[0], FACE_X, FACE_Y, FACE_PX)
    assert faces[0].roll_deg == 0


def test_detection_takes_less_than_a_second(photo: Image.Image) -> None:
    image = pixels(photo)
    times = []
    for _ in range(3):  # the least disturbed of three
        start = time.process_time()
        detect_faces(image)
        times.append(time.process_time() - start)
    assert min(times) < 1


def test_the_default_box_is_an_aligned_crop(photo: Image.Image) -> None:
    box = default_box(detect_faces(pixels(photo))[0])
    eyes, mouth = np.array([[203, 101], [247, 103]]), np.array([224, 144])  # by hand
    corner = np.array([box.center_x, box.center_y]) - box.size_px / 2
    eyes, mouth = (eyes - corner) / box.size_px, (mouth - corner) / box.size_px
    assert eyes[:, 1] == pytest.approx(0.46, abs=0.05)
    assert eyes[1, 0] - eyes[0, 0] == pytest.approx(0.26, abs=0.04)
    assert mouth == pytest.approx([0.5, 0.74], abs=0.05)


@pytest.mark.parametrize("side", [24, 32, 48, 64])
def test_faces_that_fill_tiny_photos(photo: Image.Image, side: int) -> None:
    left, top, width = 160, 40, 130
    tiny = photo.crop((left, top, left + width, top + width)).resize((side, side), Image.Resampling.LANCZOS)
    faces = detect_faces(pixels(tiny))
    k = side / width
    assert len(faces) == 1
    assert_face(faces[0], (FACE_X - left) * k, (FACE_Y - top) * k, FACE_PX * k)


def test_large_photos(photo: Image.Image) -> None:
    faces = detect_faces(pixels(photo.resize((2048, 2048), Image.Resampling.BICUBIC)))
    assert_face(faces[0], 4 * FACE_X, 4 * FACE_Y, 4 * FACE_PX)


def test_a_small_face_in_a_wide_photo(photo: Image.Image) -> None:
    wide = Image.new("RGB", (1600, 700), (120, 125, 130))
    wide.paste(photo.resize((410, 410)), (900, 200))
    k = 410 / 512
    assert_face(detect_faces(pixels(wide))[0], 900 + FACE_X * k, 200 + FACE_Y * k, FACE_PX * k)


def test_a_group_in_a_large_photo(photo: Image.Image) -> None:
    side = 300
    group, person = Image.new("RGB", (2000, 1300), (120, 125, 130)), photo.resize((side, side))
    corners = [(x, y) for y in (100, 700) for x in (50, 500, 950, 1400)]
    for corner in corners:
        group.paste(person, corner)
    faces = sorted(detect_faces(pixels(group)), key=lambda face: (round(face.y, -2), face.x))
    assert len(faces) == len(corners)
    k = side / 512
    for face, (x, y) in zip(faces, corners, strict=True):
        assert_face(face, x + FACE_X * k, y + FACE_Y * k, FACE_PX * k)


def test_a_back_row_is_found_where_every_size_is_asked_for(photo: Image.Image) -> None:
    group = Image.new("RGB", (1200, 800), (120, 125, 130))
    sides_px = (700, 260)
    for x, side in zip((0, 800), sides_px, strict=True):
        group.paste(photo.resize((side, side)), (x, 60))
    near, *rest = detect_faces(pixels(group))
    assert rest == []
    assert detect_faces(pixels(group), every_size=True)[0] == near
    _, far = detect_faces(pixels(group), every_size=True)
    for face, x, side in zip((near, far), (0, 800), sides_px, strict=True):
        assert_face(face, x + FACE_X * side / 512, 60 + FACE_Y * side / 512, FACE_PX * side / 512)


def test_no_small_faces_beside_a_portraits(photo: Image.Image) -> None:
    assert len(detect_faces(pixels(photo), every_size=True)) == 1


@pytest.mark.parametrize("every_size", [False, True])
def test_no_face_in_a_large_photo_without_people(every_size: bool) -> None:
    tiles = np.tile(data.coffee(), (2, 2, 1))
    assert detect_faces(pixels(Image.fromarray(tiles)), every_size) == []


@pytest.mark.parametrize("blur_px", [2, 4])
def test_blurred_faces(photo: Image.Image, blur_px: int) -> None:
    assert_face(detect_faces(pixels(photo.filter(ImageFilter.GaussianBlur(blur_px))))[0], FACE_X, FACE_Y, FACE_PX)


@pytest.mark.parametrize("roll_deg", [-20, 25])
def test_tilted_faces_come_with_their_roll(photo: Image.Image, roll_deg: float) -> None:
    tilted = photo.rotate(-roll_deg, Image.Resampling.BICUBIC)  # clockwise by the roll, about the middle
    faces = detect_faces(pixels(tilted))
    r, dx, dy = math.radians(roll_deg), FACE_X - 256, FACE_Y - 256
    x, y = 256 + math.cos(r) * dx - math.sin(r) * dy, 256 + math.sin(r) * dx + math.cos(r) * dy
    assert_face(faces[0], x, y, FACE_PX)
    assert faces[0].roll_deg == pytest.approx(roll_deg, abs=10)


def test_two_faces_side_by_side(photo: Image.Image) -> None:
    face = photo.crop((110, 0, 340, 230))
    both = Image.new("RGB", (400, 230), (130, 130, 130))
    both.paste(face.resize((160, 160)), (0, 30))
    both.paste(face, (170, 0))
    faces = detect_faces(pixels(both))
    assert len(faces) == 2
    assert_face(faces[0], 170 + FACE_X - 110, FACE_Y, FACE_PX)
    k = 160 / 230
    assert_face(faces[1], (FACE_X - 110) * k, 30 + FACE_Y * k, FACE_PX * k)


def test_no_face_in_noise_or_an_empty_picture() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 128, 160)).astype(np.float32))
    assert detect_faces(noise) == []
    assert detect_faces(torch.zeros(3, 64, 64)) == []


# ---- choosing ----

FACES = [FaceBox(0, 0, 30), FaceBox(100, 0, 50), FaceBox(50, 50, 40)]


@pytest.mark.parametrize(
    ("choice", "sizes"), [("largest", [50]), ("all", [50, 40, 30]), (0, [50]), (1, [40]), (2, [30])]
)
def test_select_faces(choice: str | int, sizes: list[float]) -> None:
    assert [face.size_px for face in select_faces(FACES, choice)] == sizes


@pytest.mark.parametrize("choice", ["largest", "all", 0])
def test_no_face_names_the_options(choice: str | int) -> None:
    with pytest.raises(FaceNotFoundError, match=r"no face found; .*--box x,y,size.*--center"):
        select_faces([], choice)


@pytest.mark.parametrize("choice", [3, -1, "second"])
def test_an_absent_face_names_the_options(choice: str | int) -> None:
    with pytest.raises(FaceNotFoundError, match=r"3 found; use --face largest, all or 0 to 2; .*--box.*--center"):
        select_faces(FACES, choice)


def test_an_absent_face_of_one() -> None:
    with pytest.raises(FaceNotFoundError, match=r"face 1 is not among the 1 found; use --face largest, all or 0;"):
        select_faces(FACES[:1], 1)
