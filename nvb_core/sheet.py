"""A contact sheet: the input photo with its crop drawn in, the aligned crop, and the views in a labelled grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, ImageDraw

from .fonts import font_for

T = TypeVar("T")
CELL_PX = 208
GAP_PX = 14
MARGIN_PX = 28
CAPTION_PX = 26
TITLE_PX = 44
MAX_VIEWS = 64
"""More views than this are thinned out evenly: a sheet is to look at."""
MAX_INPUTS = 8
"""So are more inputs, unless the views have as many rows."""
_PAPER, _INK, _FAINT, _ACCENT = "#f6f6f4", "#22252a", "#8a8f98", "#f5a623"


@dataclass(frozen=True)
class SheetCell:
    """A picture and the words under it."""

    image: Image.Image
    caption: str


def contact_sheet(
    inputs: Sequence[SheetCell], views: Sequence[SheetCell], title: str, footer: str, columns: int = 0
) -> Image.Image:
    """RGB picture: `inputs`, if any, stacked on the left, `views` (at least one) in a grid beside them, in order.

    The grid has as many `columns` as asked for; 0 chooses.
    """
    shown = thinned(views, MAX_VIEWS)
    columns = columns or (math.ceil(len(shown) / 2) if len(shown) <= 10 else math.ceil(math.sqrt(1.6 * len(shown))))
    rows = math.ceil(len(shown) / columns)
    photos = thinned(inputs, max(rows, MAX_INPUTS))
    rows = max(rows, len(photos))
    step_x, step_y = CELL_PX + GAP_PX, CELL_PX + CAPTION_PX + GAP_PX
    left = MARGIN_PX + (step_x + GAP_PX if inputs else 0)
    width = left + columns * step_x - GAP_PX + MARGIN_PX
    sheet = Image.new("RGB", (width, TITLE_PX + MARGIN_PX + rows * step_y + MARGIN_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = TITLE_PX + MARGIN_PX // 2
    _write(draw, MARGIN_PX, top // 2 + 2, title, _INK, 20)
    for row, cell in enumerate(photos):
        _place(sheet, draw, cell, MARGIN_PX, top + row * step_y)
    if inputs:
        draw.line((left - GAP_PX, top, left - GAP_PX, top + rows * step_y - GAP_PX), "#dcdcd8")
    for index, cell in enumerate(shown):
        _place(sheet, draw, cell, left + index % columns * step_x, top + index // columns * step_y)
    left_out = [
        f"{len(some)} of {len(every)} {name}. "
        for some, every, name in ((photos, inputs, "photos"), (shown, views, "views"))
        if len(some) < len(every)
    ]
    _write(draw, MARGIN_PX, sheet.height - MARGIN_PX, "".join(left_out) + footer, _FAINT, 13)
    return sheet


def outlined(image: Image.Image, corners: Sequence[tuple[float, float]]) -> Image.Image:
    """Copy of `image` with the closed polygon `corners`, in pixels, drawn on it, visible after shrinking to a cell."""
    marked = image.convert("RGB")
    line = max(2, round(max(image.size) / CELL_PX * 2.5))
    draw = ImageDraw.Draw(marked)
    closed = [*corners, corners[0], corners[1]]
    draw.line(closed, "black", line * 2, joint="curve")
    draw.line(closed, _ACCENT, line, joint="curve")
    return marked


def thinned(items: Sequence[T], most: int) -> list[T]:
    """At most as many (2 or more), evenly chosen: the first, the last and some between."""
    count = min(len(items), most)
    if count < 2:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _write(draw: ImageDraw.ImageDraw, x: int, y: int, text: str, colour: str, size_px: int) -> None:
    """One line of text, shortened to the sheet's width."""
    font, room = font_for(text, size_px), draw.im.size[0] - x - MARGIN_PX
    if font.getlength(text) > room:
        while text and font.getlength(text + "…") > room:
            text = text[:-1]
        text += "…"
    draw.text((x, y), text, colour, font, anchor="lm")


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: SheetCell, x: int, y: int) -> None:
    """Draw a cell, its picture scaled to fit and centred, with its top left corner at (x, y)."""
    scale = CELL_PX / max(cell.image.size)
    size = (max(1, round(cell.image.width * scale)), max(1, round(cell.image.height * scale)))
    picture = cell.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    sheet.paste(picture, (x + (CELL_PX - size[0]) // 2, y + (CELL_PX - size[1]) // 2))
    caption = (x + CELL_PX / 2, y + CELL_PX + CAPTION_PX / 2)
    draw.text(caption, cell.caption, _INK, font_for(cell.caption, 14), anchor="mm")
