from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from nvb_core.errors import ImageError
from nvb_core.provenance import (
    DIGITAL_SOURCE_TYPE,
    CameraRecord,
    Provenance,
    mp4_arguments,
    png_info,
    read_png,
    source_name,
)

RECORD = Provenance(
    model="mini",
    weights_sha256="ab" * 32,
    version="0.1.0",
    seed=7,
    steps=50,
    eta=0.0,
    source="Zoë \u5199\u771f.jpg",
    source_sha256="cd" * 32,
    fit_steps=20,
    camera=CameraRecord(yaw_deg=-30.0, pitch_deg=10.0, roll_deg=0.0, radius=2.7, fov_deg=13.37),
)


def save(path: Path, record: Provenance) -> Path:
    Image.new("RGB", (8, 8)).save(path, pnginfo=png_info(record))
    return path


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, camera=None)])
def test_png_round_trip(tmp_path: Path, record: Provenance) -> None:
    assert read_png(save(tmp_path / "a.png", record)) == record


def test_png_says_ai_generated_in_plain_words_and_as_iptc(tmp_path: Path) -> None:
    with Image.open(save(tmp_path / "a.png", RECORD)) as image:
        text = dict(image.info)
    assert "AI-generated" in text["Software"]
    assert "AI-generated" in text["Comment"]
    assert "Zoë \u5199\u771f.jpg" in text["Comment"]
    body = text["XML:com.adobe.xmp"].removeprefix("\ufeff")
    ElementTree.fromstring(body)  # noqa: S314
    assert DIGITAL_SOURCE_TYPE in body


def test_the_statement_for_people() -> None:
    assert RECORD.statement == (
        "AI-generated image: NVB-Face 0.1.0, model mini, seed 7, from Zoë \u5199\u771f.jpg (sha256 cdcdcdcdcdcdcdcd). "
        "Not a photograph."
    )
    assert "Zoë \u5199\u771f.jpg" in RECORD.to_json()


def test_file_names_that_are_not_text() -> None:
    assert source_name(Path("photos", os.fsdecode(b"Zo\xeb.jpg"))) == "Zo?.jpg"
    assert source_name(Path("photos/Zoë.jpg")) == "Zoë.jpg"


def test_a_record_with_a_camera_that_is_none(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("nvb-face", json.dumps(json.loads(RECORD.to_json()) | {"camera": {"yaw_deg": 1}}))
    Image.new("RGB", (8, 8)).save(tmp_path / "odd.png", pnginfo=info)
    with pytest.raises(ImageError, match="can't read its provenance record"):
        read_png(tmp_path / "odd.png")


def test_records_of_before_fits_are_read() -> None:
    older = json.loads(RECORD.to_json())
    del older["fit_steps"]
    assert Provenance.from_json(json.dumps(older)) == replace(RECORD, fit_steps=0)


def test_png_without_a_record(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert read_png(tmp_path / "a.png") is None


def test_unreadable_records_name_the_file(tmp_path: Path) -> None:
    info = png_info(RECORD)
    info.chunks = [c for c in info.chunks if b"nvb-face" not in c[1]]
    info.add_text("nvb-face", '{"model": 1}')
    Image.new("RGB", (8, 8)).save(tmp_path / "odd.png", pnginfo=info)
    (tmp_path / "text.png").write_text("no image")
    for name in ("odd.png", "text.png", "missing.png"):
        with pytest.raises(ImageError, match=name):
            read_png(tmp_path / name)


@given(source=st.text(st.characters(exclude_categories=["Cs"])), seed=st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=50)
def test_json_round_trip(source: str, seed: int) -> None:
    record = replace(RECORD, source=source, seed=seed)
    assert Provenance.from_json(record.to_json()) == record


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "mini"}', '{"camera": {"yaw": 1}}'])
def test_json_of_something_else(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Provenance.from_json(text)


def test_mp4_arguments_hold_the_record() -> None:
    arguments = mp4_arguments(RECORD)
    assert arguments[0::2] == ["-metadata"] * 2
    tags = dict(argument.split("=", 1) for argument in arguments[1::2])
    assert Provenance.from_json(tags["comment"]) == RECORD
    assert "AI-generated" in tags["description"]
