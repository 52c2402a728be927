"""The nodes that take photos: Align Face and Degrade Image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.nodes.conftest import ROOT, Pack

ALIGN = {"faces": "largest", "index": 0, "padding": 0.0}


@pytest.fixture(scope="module")
def portrait() -> torch.Tensor:
    return _read(ROOT / "examples/astronaut.jpg")


def _read(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255)[None]


def align(pack: Pack, image: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, Any, torch.Tensor]:
    return pack.node("NVBAlignFace").execute(image, **{**ALIGN, **inputs}).args


def test_the_face_of_a_photo_is_cut_out_and_its_place_told(pack: Pack, portrait: torch.Tensor) -> None:
    crops, info, mask = align(pack, portrait)
    assert crops.shape == (1, 512, 512, 3)
    assert mask.shape == (1, 512, 512)
    box = info.boxes[0]
    assert (box.center_x, box.center_y) == pytest.approx((222, 120), abs=15)
    assert float(mask.sum()) == pytest.approx(box.size_px**2, rel=0.03)
    rows, columns = (mask[0].any(dim=dim).nonzero().float().mean() + 0.5 for dim in (1, 0))
    assert (float(columns), float(rows)) == pytest.approx((box.center_x, box.center_y), abs=2)


def test_an_encoder_gives_the_model_s_size_and_corrects_the_crop(
    pack: Pack, portrait: torch.Tensor, parts: SimpleNamespace, model: Any
) -> None:
    crops, info, _ = align(pack, portrait, encoder=parts.encoder)
    assert crops.shape[1] == model.config.image_size
    assert info.boxes != align(pack, portrait)[1].boxes


def test_crops_pasted_back_give_the_photo_and_a_mark(pack: Pack, portrait: torch.Tensor) -> None:
    crops, info, mask = align(pack, portrait)
    paste = pack.node("NVBPasteFace").execute
    plain = paste(portrait, crops, info, 0.1, False).args[0]
    assert (plain - portrait).abs().mean() < 0.01
    dark = paste(portrait, torch.zeros_like(crops), info, 0.1, False).args[0]
    changed = (dark - portrait).abs().amax(dim=-1) > 0.02
    assert changed.sum() > 0.7 * mask.sum()
    assert not changed[mask == 0].any()
    marked = paste(portrait, crops, info, 0.1, True).args[0]
    assert not torch.equal(marked[:, -50:, -80:], plain[:, -50:, -80:])
    assert torch.equal(marked[:, :400], plain[:, :400])


def test_transparent_parts_come_out_grey_and_opaque(pack: Pack, portrait: torch.Tensor) -> None:
    crops, info, _ = align(pack, portrait)
    clear = torch.cat((portrait, torch.ones_like(portrait[..., :1])), dim=-1)
    clear[:, 400:, :, 3] = 0
    pasted = pack.node("NVBPasteFace").execute(clear, crops, info, 0.1, False).args[0]
    assert pasted.shape == portrait.shape
    grey = pack.module("nvb_core.images").BACKDROP[0] / 255
    torch.testing.assert_close(pasted[:, 400:], torch.full_like(portrait[:, 400:], grey), atol=1e-5, rtol=0)


def test_boxes_masks_and_padding_say_where_the_face_is(pack: Pack, portrait: torch.Tensor) -> None:
    typed = align(pack, portrait, box="180,60,120")[1].boxes
    painted = torch.zeros(1, 512, 512)
    painted[0, 60:180, 200:280] = 1  # as high as the box and as wide as 80: the square about it is the same
    assert align(pack, portrait, mask=painted)[1].boxes == typed
    wide = align(pack, portrait, box="180,60,120", padding=0.5)[1].boxes[0]
    assert wide.size_px == pytest.approx(2 * typed[0].size_px)
    centre = align(pack, portrait, faces="center")[1].boxes[0]
    assert (centre.center_x, centre.center_y, centre.size_px) == (256, 256, 512)


def test_a_batch_gives_its_crops_photo_by_photo(pack: Pack, portrait: torch.Tensor) -> None:
    batch = torch.cat((portrait, portrait.flip(2)))
    crops, info, _ = align(pack, batch, box="180,60,120")
    assert info.photos == (0, 1)
    assert torch.equal(crops[0], align(pack, portrait, box="180,60,120")[0][0])
    with pytest.raises(pack.module("nvb_core.errors").FaceNotFoundError, match="photo 1: no face found; paint"):
        align(pack, torch.cat((portrait, torch.full_like(portrait, 0.5))))


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"faces": "index", "index": 4}, "face 4 is not among the 1 found; paint"),
        ({"faces": "biggest"}, "faces 'biggest' must be one of"),
        ({"box": "1,2"}, "isn't three numbers"),
        ({"box": "450,450,100"}, "leaves the photo of 512×512"),
        ({"mask": torch.zeros(1, 64, 64)}, "mask: nothing is painted"),
        ({"mask": torch.ones(1, 64, 64)}, "64×64 pixels for 1 photos"),
        ({"mask": torch.ones(1, 512, 512), "box": "1,2,3"}, "box and mask both"),
    ],
)
def test_a_face_that_is_not_there_is_one_clear_error(
    pack: Pack, portrait: torch.Tensor, inputs: dict[str, Any], says: str
) -> None:
    with pytest.raises(pack.module("nvb_core.errors").NVBError, match=says):
        align(pack, portrait, **inputs)


def test_a_bad_box_shows_before_the_run(pack: Pack) -> None:
    validate = pack.node("NVBAlignFace").validate_inputs
    assert validate() is True
    assert validate("10, 20, 30") is True
    assert "isn't three numbers" in validate("10;20;30")
    assert "at least 1" in validate("10,20,0")


def test_degradation_levels(pack: Pack, portrait: torch.Tensor) -> None:
    image = portrait[:, 60:188, 160:288].repeat(2, 1, 1, 1)
    numbers = {"blur": 2.0, "scale": 0.25, "noise": 10.0, "jpeg": 50}

    def degraded(level: str, seed: int = 1, **changes: Any) -> torch.Tensor:
        return pack.node("NVBDegrade").execute(image, level, seed, **{**numbers, **changes}).args[0]

    torch.testing.assert_close(degraded("level0"), image)
    errors = [float((degraded(level) - image).square().mean()) for level in ("level1", "level2", "custom")]
    assert min(errors) > 1e-4
    assert torch.equal(degraded("level2"), degraded("level2"))
    assert not torch.equal(degraded("level2"), degraded("level2", seed=2))
    noisy = degraded("custom")
    assert not torch.equal(noisy[0], noisy[1])
    clean = degraded("custom", blur=0.0, scale=1.0, noise=0.0, jpeg=0)
    torch.testing.assert_close(clean, image)
    with pytest.raises(pack.module("nvb_core.errors").ConfigError, match="level 'level9'"):
        degraded("level9")
