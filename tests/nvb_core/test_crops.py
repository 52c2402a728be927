from __future__ import annotations

import pytest
import torch

from nvb_core.align import CropBox, crop_image, default_box
from nvb_core.crops import box_in_photo, box_of_mask, crop_mask, find_boxes, padded, parse_box
from nvb_core.detect import FaceBox
from nvb_core.errors import ConfigError, FaceNotFoundError, ImageError


def test_the_mask_covers_what_the_crop_shows() -> None:
    box = CropBox(30, 22, 20, 25.0)
    mask = crop_mask(box, 60, 50)
    assert float(mask.sum()) == pytest.approx(400, rel=0.05)
    shown = crop_image(mask.expand(3, -1, -1) * 2 - 1, CropBox(30, 22, 16, 25.0), 32)
    assert float(shown.mean()) > 0.98  # of the crop within, all is covered
    around = crop_image(mask.expand(3, -1, -1) * 2 - 1, CropBox(30, 22, 40, 25.0), 32)
    assert float(around.add(1).div(2).mean()) == pytest.approx(0.25, abs=0.02)


def test_an_upright_mask_is_exact() -> None:
    mask = crop_mask(CropBox(5, 4, 4), 10, 8)
    expected = torch.zeros(8, 10)
    expected[2:6, 3:7] = 1
    assert torch.equal(mask, expected)
    assert torch.equal(crop_mask(CropBox(5, 4, 3), 10, 8), expected)  # whose sides run through pixels' centres
    assert torch.equal(crop_mask(CropBox(5, 4, 4.5), 10, 8), expected)


def test_a_painted_face_is_its_bounding_square() -> None:
    mask = torch.zeros(100, 120)
    mask[20:60, 50:70] = 0.8
    mask[5, 5] = 0.5  # too faint
    assert box_of_mask(mask) == default_box(FaceBox(40, 20, 40))
    with pytest.raises(ImageError, match="nothing is painted"):
        box_of_mask(mask * 0.5)


def test_padding_keeps_the_centre() -> None:
    box = CropBox(1, 2, 10, 3)
    assert padded(box, 0.25) == CropBox(1, 2, 15, 3)
    assert padded(box, 0) == box


def test_typed_boxes() -> None:
    assert parse_box("") is parse_box("  ") is None
    assert parse_box("1, 2,3.5") == FaceBox(1, 2, 3.5)
    assert parse_box("0,0,1") == FaceBox(0, 0, 1)
    assert box_in_photo(FaceBox(10, 10, 40), 50, 50) == default_box(FaceBox(10, 10, 40))
    with pytest.raises(ConfigError, match="leaves the photo of 50×49"):
        box_in_photo(FaceBox(10, 10, 40), 50, 49)
    with pytest.raises(ConfigError, match="leaves the photo of 49×50"):
        box_in_photo(FaceBox(10, 10, 40), 49, 50)


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4", "a,b,c", "1,2,nan", "-1,0,5", "0,-1,5", "1,2,0"])
def test_a_text_that_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r'write "x,y,size"'):
        parse_box(text)


def test_a_photo_without_a_face_says_what_else_to_do() -> None:
    grey = torch.zeros(3, 64, 100)
    assert find_boxes(grey, "center") == [CropBox(50, 32, 64)]
    with pytest.raises(FaceNotFoundError, match="no face found; paint the face") as caught:
        find_boxes(grey, "largest")
    assert "--" not in str(caught.value)  # no option of the command line
