from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nvb_core.align import CropBox, crop_image
from nvb_core.crops import FaceCrops, crop_mask
from nvb_core.errors import ConfigError
from nvb_core.paste import paste_faces

HEIGHT, WIDTH = 60, 80


def smooth(*shape: int) -> Tensor:
    """A picture (3, *shape) in [-1, 1] without detail that resampling would lose."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in shape), indexing="ij")
    return torch.stack([torch.sin(3 * x + y), torch.cos(2 * y - x), x * y])


def crops(*boxes: CropBox, photos: tuple[int, ...] | None = None) -> FaceCrops:
    return FaceCrops(boxes, photos or (0,) * len(boxes), WIDTH, HEIGHT)


@settings(max_examples=30, deadline=None)
@given(
    x=st.floats(0, WIDTH),
    y=st.floats(0, HEIGHT),
    size=st.floats(8, 70),
    roll=st.floats(-180, 180),
    feather=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_a_crop_pasted_back_changes_nothing(x: float, y: float, size: float, roll: float, feather: float) -> None:
    photo, box = smooth(HEIGHT, WIDTH), CropBox(x, y, size, roll)
    face = crop_image(photo, box, 96)
    pasted = paste_faces(photo[None], face[None], crops(box), feather)[0]
    # What of the crop lies outside the photo repeats its edge, and blurs into the last pixels before it.
    inner = (slice(None), slice(4, -4), slice(4, -4))
    assert (pasted - photo)[inner].abs().max() < 0.04  # the picture's steepest slope, a pixel


@pytest.mark.parametrize("roll", [0.0, 30.0])
def test_without_feather_exactly_the_crop_changes(roll: float) -> None:
    photo, box = smooth(HEIGHT, WIDTH), CropBox(38.3, 31.1, 24.0, roll)
    pasted = paste_faces(photo[None], torch.full((1, 3, 40, 40), 0.9), crops(box), 0.0)[0]
    inside = crop_mask(box, WIDTH, HEIGHT).bool()
    torch.testing.assert_close(pasted[:, inside], torch.full_like(pasted[:, inside], 0.9))
    assert torch.equal(pasted[:, ~inside], photo[:, ~inside])


def test_without_feather_the_border_is_of_the_crop() -> None:
    box = CropBox(40.0, 30.0, 19.0)  # whose sides run through pixels' centres
    pasted = paste_faces(torch.zeros(1, 3, HEIGHT, WIDTH), torch.ones(1, 3, 8, 8), crops(box), 0.0)[0]
    torch.testing.assert_close(pasted, crop_mask(box, WIDTH, HEIGHT).expand(3, -1, -1))
    assert float(pasted[0].sum()) == pytest.approx(20 * 20)


def test_sharp_edges_stay_in_range() -> None:
    face = torch.where(torch.arange(8) < 4, -1.0, 1.0).expand(1, 3, 8, 8)
    pasted = paste_faces(torch.zeros(1, 3, HEIGHT, WIDTH), face, crops(CropBox(40, 30, 40)), 0.0)
    assert (float(pasted.min()), float(pasted.max())) == (-1, 1)  # bicubic weights alone go beyond both


def test_feather_fades_evenly_to_the_border() -> None:
    photo, box = torch.zeros(1, 3, HEIGHT, WIDTH), CropBox(40.0, 30.0, 40.0)
    row = paste_faces(photo, torch.ones(1, 3, 40, 40), crops(box), 0.25)[0, 0, 30]  # of the photo; the crop is 20–60
    assert (row[:20] == 0).all()
    assert (row[60:] == 0).all()
    assert torch.allclose(row[30:50], torch.ones(20))
    rise = row[20:30]
    assert (rise.diff() > 0).all()
    way = torch.arange(0.05, 1, 0.1)
    torch.testing.assert_close(rise, 3 * way**2 - 2 * way**3, rtol=0, atol=1e-5)
    torch.testing.assert_close(row, row.flip(0), rtol=0, atol=1e-5)


def test_each_face_goes_into_its_photo_in_order() -> None:
    boxes = (CropBox(20, 20, 20), CropBox(24, 20, 20), CropBox(60, 40, 20))
    faces = torch.stack([torch.full((3, 8, 8), value) for value in (-0.5, 0.5, 1.0)])
    photos = torch.zeros(3, 3, HEIGHT, WIDTH)
    pasted = paste_faces(photos, faces, crops(*boxes, photos=(0, 0, 2)), 0.0)
    assert pasted[0, 0, 20, 12] == pytest.approx(-0.5)
    assert pasted[0, 0, 20, 20] == pytest.approx(0.5)  # the later one covers the earlier one
    assert pasted[0, 0, 40, 60] == 0
    assert torch.equal(pasted[1], photos[1])
    assert pasted[2, 0, 40, 60] == pytest.approx(1)
    assert (photos == 0).all()


def test_detail_that_the_photo_has_no_pixels_for_is_averaged() -> None:
    checkers = (torch.arange(256)[:, None] + torch.arange(256)) % 2 * 2.0 - 1
    box = CropBox(40, 30, 32)
    pasted = paste_faces(torch.zeros(1, 3, HEIGHT, WIDTH), checkers.expand(1, 3, -1, -1), crops(box), 0.0)
    assert pasted.abs().max() < 0.05
    lines = torch.where(torch.arange(256) % 8 == 3, 1.0, -1.0)  # an eighth of all columns, eight to a photo's pixel
    pasted = paste_faces(torch.zeros(1, 3, HEIGHT, WIDTH), lines.expand(1, 3, 256, -1), crops(box), 0.0)
    inner = pasted[..., 20:40, 30:50]
    torch.testing.assert_close(inner, torch.full_like(inner, -0.75), rtol=0, atol=0.05)


def test_faces_of_another_precision_are_taken() -> None:
    photo, face = torch.zeros(1, 3, HEIGHT, WIDTH), torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    pasted = paste_faces(photo, face, crops(CropBox(40, 30, 20)), 0.0)
    assert pasted.dtype == torch.float32
    assert float(pasted[0, 0, 30, 40]) == pytest.approx(0.5)


def test_a_crop_outside_the_photo_changes_nothing() -> None:
    photo = smooth(HEIGHT, WIDTH)[None]
    assert torch.equal(paste_faces(photo, torch.ones(1, 3, 8, 8), crops(CropBox(-500, 9, 20)), 0.1), photo)


@pytest.mark.parametrize(
    ("photos", "faces", "message"),
    [
        ((1, 3, HEIGHT, WIDTH), (8, 3, 8, 8), "8 pictures for 2 crops"),
        ((1, 3, HEIGHT, WIDTH), (2, 3, 8, 9), "pictures of 9×8 pixels"),
        (
            (1, 3, 50, 50),
            (2, 3, 8, 8),
            f"1 photos of 50×50 pixels, but the crops are from 1 or more of {WIDTH}×{HEIGHT}",
        ),
    ],
)
def test_what_does_not_fit_is_refused(photos: tuple[int, ...], faces: tuple[int, ...], message: str) -> None:
    boxes = crops(CropBox(20, 20, 10), CropBox(50, 30, 10))
    with pytest.raises(ConfigError, match=message):
        paste_faces(torch.zeros(photos), torch.zeros(faces), boxes, 0.1)


def test_a_missing_photo_is_refused() -> None:
    boxes = crops(CropBox(20, 20, 10), CropBox(50, 30, 10), photos=(0, 1))
    with pytest.raises(ConfigError, match="crops are from 2 or more"):
        paste_faces(torch.zeros(1, 3, HEIGHT, WIDTH), torch.zeros(2, 3, 8, 8), boxes, 0.1)
