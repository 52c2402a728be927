"""A font that has the letters of a text: Pillow's own, which has those of English, or one of the machine's."""

from __future__ import annotations

import functools
import logging

from PIL import ImageFont

NAMES = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf"),
    *(
        "NotoSansCJK-Regular.ttc",
        "NotoSansCJKsc-Regular.otf",
        "wqy-zenhei.ttc",
        "wqy-microhei.ttc",
        "DroidSansFallback.ttf",
    ),
    *("msyh.ttc", "YuGothM.ttc", "malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc"),
)
"""What Linux, Windows and macOS have, looked for where they keep them; first those of many alphabets."""
UNASSIGNED = "\U0010ffff"
log = logging.getLogger(__name__)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.lru_cache(maxsize=256)
def font_for(text: str, size_px: int) -> Font:
    """The first font that has all letters of a text; where there is none, Pillow's, and a warning."""
    own = ImageFont.load_default(size_px)
    if not missing_letters(text, own):
        return own
    for name in NAMES:
        try:
            font = ImageFont.truetype(name, size_px)
        except OSError:  # there is no such font here
            continue
        if not missing_letters(text, font):
            return font
    letters = "".join(missing_letters(text, own))
    log.warning("no font of this machine has the letters %s; they are drawn as boxes", letters)
    return own


def missing_letters(text: str, font: Font) -> list[str]:
    """Letters of a text that a font draws as it draws what nobody has."""
    box = bytes(font.getmask(UNASSIGNED))
    return sorted({letter for letter in text if not letter.isspace() and bytes(font.getmask(letter)) == box})
