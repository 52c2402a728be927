from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from PIL import ImageFont

from nvb_core import fonts
from nvb_core.fonts import font_for, missing_letters

OWN = ImageFont.load_default(14)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    font_for.cache_clear()
    yield
    font_for.cache_clear()


def test_letters_that_pillow_s_font_lacks() -> None:
    assert missing_letters("NVB-Face: yaw +30.0°", OWN) == []
    assert missing_letters("Zoë  Zoë \u6211", OWN) == ["ë", "\u6211"]


def test_a_font_of_the_machine_steps_in(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Made up, since machines differ: of two fonts the second has the letters."""
    second, asked = ImageFont.load_default(15), []

    def installed(name: str, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        asked.append((name, size_px))
        if name == "gone.ttf":
            raise OSError("cannot open resource")
        return second if name == "full.ttf" else OWN

    lacks = {id(second): [], id(OWN): ["ë"]}
    monkeypatch.setattr(fonts, "NAMES", ("gone.ttf", "poor.ttf", "full.ttf"))
    monkeypatch.setattr(ImageFont, "load_default", lambda _: OWN)
    monkeypatch.setattr(ImageFont, "truetype", installed)
    monkeypatch.setattr(fonts, "missing_letters", lambda _, font: lacks[id(font)])
    assert font_for("Zoë", 14) is second
    assert asked == [("gone.ttf", 14), ("poor.ttf", 14), ("full.ttf", 14)]
    assert not caplog.records


def test_where_no_font_has_them_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "NAMES", ())
    with caplog.at_level(logging.WARNING):
        assert font_for("\u6211\u7684\u7167\u7247", 14).getmask("a").size == OWN.getmask("a").size
    assert [record.getMessage() for record in caplog.records] == [
        "no font of this machine has the letters \u6211\u7167\u7247\u7684; they are drawn as boxes"
    ]
