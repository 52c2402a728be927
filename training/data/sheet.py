"""A contact sheet of a face folder: random subjects and views with the head's axes as their labels see them, and where
all cameras are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from nvb_core.align import CropBox
from nvb_core.cameras import HEAD_RADIUS, Cameras
from nvb_core.sheet import CELL_PX, GAP_PX, MARGIN_PX, MAX_VIEWS, SheetCell, contact_sheet, outlined

from .folder import FaceFolder, FaceSource

AXIS = 0.25
"""Length of the drawn axes in world units."""
PLOT_PX, MAX_CAMERAS = 520, 5000
_AXES = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
_PAPER, _INK, _FAINT, _ACCENT = "#f6f6f4", "#22252a", "#b9bdc4", "#e0482e"


def draw_sheet(root: Path, rows: int, columns: int, seed: int) -> Image.Image:
    """`rows` random subjects of a face folder and up to `columns` random views of each, and the cameras.

    Axes are drawn from the head's centre: x red (the subject's left), y green (up), z blue (where the face looks). The
    frame is the canonical crop. Raises ConfigError.
    """
    folder = FaceFolder.load(root, 1, in_memory="no")
    (source,) = folder.sources
    rng = np.random.default_rng(seed)
    groups = _images_of_subjects(source)
    names = [sorted(groups)[i] for i in sorted(rng.permutation(len(groups))[: min(rows, MAX_VIEWS // columns)])]
    cells, shown = [], []
    for name in names:
        views = sorted(rng.permutation(groups[name])[:columns].tolist())
        shown += views
        cells += [_cell(source, index, name) for index in views]
        cells += [SheetCell(Image.new("RGB", (8, 8), _PAPER), "")] * (columns - len(views))
    known = int(source.has_camera.sum())
    cameras = "" if known == len(source) else f", {known} of them with a camera"
    title = f"{root.name}: {len(source)} images of {source.side} px, {len(groups)} subjects{cameras}"
    sheet = contact_sheet(
        [], cells, title, f"seed {seed}; frame: canonical crop of {source.canonical_px:g} px", columns
    )
    return _joined(sheet, _plots(source, shown, rng))


def _images_of_subjects(source: FaceSource) -> dict[str, list[int]]:
    from .index import read_index

    groups: dict[str, list[int]] = {}
    for i, subject in enumerate(read_index(source.root).subjects):
        groups.setdefault(subject, []).append(i)
    return groups


def _cell(source: FaceSource, index: int, subject: str) -> SheetCell:
    image = Image.fromarray(source.images(torch.tensor([index]))[0].permute(1, 2, 0).numpy())
    scale = CELL_PX * 2 / image.width
    image = image.resize((CELL_PX * 2, CELL_PX * 2), Image.Resampling.LANCZOS)
    if source.canonical_px < source.side:
        image = outlined(image, _corners(source.canonical_box, scale))
    if not bool(source.has_camera[index]):
        return SheetCell(image, f"{subject[-16:]}  no camera")
    camera = source.cameras[index]
    _draw_axes(image, camera)
    angles = camera.angles()
    return SheetCell(image, f"{subject[-14:]}  {float(angles.yaw_deg):+.0f}°, {float(angles.pitch_deg):+.0f}°")


def _corners(box: CropBox, scale: float) -> list[tuple[float, float]]:
    low, high = (scale * (box.center_x + sign * box.size_px / 2) for sign in (-1, 1))
    return [(low, low), (high, low), (high, high), (low, high)]


def _draw_axes(image: Image.Image, camera: Cameras) -> None:
    points = AXIS * torch.tensor([(0.0, 0.0, 0.0), *_AXES.values()], dtype=torch.float64)
    (origin, *ends) = (camera.project(points)[0] * image.width).tolist()
    draw = ImageDraw.Draw(image)
    for colour, end in zip(_AXES, ends, strict=True):
        if np.isfinite([*origin, *end]).all():
            draw.line((*origin, *end), colour, 4)


def _plots(source: FaceSource, shown: Sequence[int], rng: np.random.Generator) -> list[Image.Image]:
    """The cameras from above and from the subject's right; red are those of the images shown."""
    known = source.has_camera.nonzero().flatten().numpy()
    if not len(known):
        return []
    drawn = sorted(rng.permutation(known)[:MAX_CAMERAS].tolist())
    marked = [index for index in shown if bool(source.has_camera[index])]
    reach = float(source.cameras.cam2world[drawn, :3, 3].abs().max()) * 1.15
    above = _plot(
        source, drawn, marked, (0, 2), (1, 1), reach, "from above: the subject's left is right, front is down"
    )
    side = _plot(source, drawn, marked, (2, 1), (1, -1), reach, "from the subject's right: front is right")
    return [above, side]


def _plot(
    source: FaceSource,
    drawn: Sequence[int],
    marked: Sequence[int],
    axes: tuple[int, int],
    signs: tuple[int, int],
    reach: float,
    caption: str,
) -> Image.Image:
    """Cameras along two world axes, each a dot with a line where it looks; the circle is the head."""
    picture = Image.new("RGB", (PLOT_PX, PLOT_PX), _PAPER)
    draw = ImageDraw.Draw(picture)
    scale, middle = PLOT_PX / 2 / reach, PLOT_PX / 2
    flip = np.array(signs) * scale
    position = source.cameras.cam2world[:, :3, 3].numpy()[:, axes] * flip + middle
    forward = source.cameras.cam2world[:, :3, 2].numpy()[:, axes] * flip * 0.3
    radius = HEAD_RADIUS * scale
    draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), outline=_INK, width=2)
    nose = np.array([0.0, 0.0, 1.0])[list(axes)] * flip * HEAD_RADIUS * 1.3
    draw.line((middle, middle, *(middle + nose)), _INK, 2)
    for indices, colour, size in ((drawn, _FAINT, 2), (marked, _ACCENT, 4)):
        for (x, y), (dx, dy) in zip(position[list(indices)], forward[list(indices)], strict=True):
            draw.line((x, y, x + dx, y + dy), colour, 1)
            draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
    draw.text((PLOT_PX / 2, PLOT_PX - 12), caption, _INK, ImageFont.load_default(14), anchor="mm")
    return picture


def _joined(sheet: Image.Image, plots: Sequence[Image.Image]) -> Image.Image:
    """The sheet with the plots in a row under it."""
    if not plots:
        return sheet
    width = max(sheet.width, 2 * MARGIN_PX + len(plots) * (PLOT_PX + GAP_PX))
    joined = Image.new("RGB", (width, sheet.height + PLOT_PX + MARGIN_PX), _PAPER)
    joined.paste(sheet, (0, 0))
    for i, plot in enumerate(plots):
        joined.paste(plot, (MARGIN_PX + i * (PLOT_PX + GAP_PX), sheet.height))
    return joined
