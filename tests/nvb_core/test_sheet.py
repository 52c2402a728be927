from __future__ import annotations

import numpy as np
from PIL import Image

from nvb_core.sheet import CELL_PX, GAP_PX, MARGIN_PX, MAX_INPUTS, MAX_VIEWS, SheetCell, contact_sheet, outlined


def cell(colour: str | tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> SheetCell:
    return SheetCell(Image.new("RGB", size, colour), "caption")


def pixels_of(sheet: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """(K, 2) x, y of the pixels of exactly that colour."""
    return np.argwhere((np.asarray(sheet) == colour).all(axis=-1))[:, ::-1]


def test_every_picture_is_shown_whole_and_in_order() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    sheet = contact_sheet([cell("#ff00ff"), cell("#880088")], [cell(c) for c in colours], "title", "footer")
    found = [pixels_of(sheet, colour) for colour in colours]
    corners = [pixels.min(axis=0).tolist() for pixels in found]
    assert [len(pixels) for pixels in found] == [CELL_PX**2] * len(colours)
    assert sorted(corners, key=lambda corner: corner[::-1]) == corners
    assert pixels_of(sheet, (255, 0, 255)).max(axis=0)[0] < corners[0][0]


def test_no_room_is_left_for_inputs_that_are_not_there() -> None:
    with_input, without = (contact_sheet(inputs, [cell("#ff0000")] * 3, "t", "f") for inputs in ([cell("#0000ff")], []))
    assert without.width == with_input.width - CELL_PX - 2 * GAP_PX
    assert pixels_of(without, (255, 0, 0))[:, 0].min() == MARGIN_PX


def test_pictures_keep_their_shape() -> None:
    sheet = contact_sheet([cell("#ff0000", (200, 100))], [cell("#00ff00")], "title", "footer")
    found = pixels_of(sheet, (255, 0, 0))
    extent = found.max(axis=0) - found.min(axis=0) + 1
    assert extent.tolist() == [CELL_PX, CELL_PX // 2]


def test_many_views_are_thinned_out_with_first_and_last_kept() -> None:
    views = [cell("#0000ff"), *[cell("#00ff00")] * 998, cell("#ff0000")]
    sheet = contact_sheet([cell("#000000")], views, "title", "footer")
    assert len(pixels_of(sheet, (0, 255, 0))) == (MAX_VIEWS - 2) * CELL_PX**2
    assert len(pixels_of(sheet, (255, 0, 0))) == len(pixels_of(sheet, (0, 0, 255))) == CELL_PX**2


def test_many_photos_are_thinned_out_too_but_to_no_fewer_rows_than_the_views_have() -> None:
    photos = [cell("#0000ff"), *[cell("#00ff00")] * 298, cell("#ff0000")]
    few, many = (contact_sheet(photos, [cell("#ffff00")] * n, "title", "footer", columns=1) for n in (2, 20))
    for sheet, rows in ((few, MAX_INPUTS), (many, 20)):
        assert len(pixels_of(sheet, (0, 255, 0))) == (rows - 2) * CELL_PX**2
        assert len(pixels_of(sheet, (255, 0, 0))) == len(pixels_of(sheet, (0, 0, 255))) == CELL_PX**2
    assert many.height < 21 * 2 * CELL_PX


def test_long_words_stay_on_the_sheet() -> None:
    short = contact_sheet([cell("#000000")], [cell("#00ff00")], "t", "f")
    long = contact_sheet([cell("#000000")], [cell("#00ff00")], "long title " * 40, "long footer " * 40)
    assert long.size == short.size
    paper = np.asarray(long)[0, 0]
    assert (np.asarray(long)[:, -20:] == paper).all()


def test_outline_is_drawn_on_a_copy_along_the_corners() -> None:
    photo = Image.new("RGB", (400, 300))
    marked = np.asarray(outlined(photo, [(100, 50), (300, 50), (300, 250), (100, 250)]))
    assert not np.asarray(photo).any()
    assert marked[50, 200].any()
    assert marked[150, 100].any()
    assert not marked[150, 200].any()


def test_outline_may_leave_the_photo() -> None:
    marked = outlined(Image.new("RGB", (40, 30)), [(-10, -5), (60, -5), (60, 20), (-10, 20)])
    assert np.asarray(marked)[20, 20].any()
