"""report.md, report.json and sheet.png of photos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nvb_core.staging import write_atomically

from ..export import git_revision
from .photo_scores import COARSE, VIEWS_DEG, PhotoScores
from .sheet import CAPTION_PX
from .summary import mean_interval

COLUMNS = (  # field, heading, digits
    ("yaw_deg", "yaw, °", 1),
    ("pitch_deg", "pitch, °", 1),
    ("restored_psnr", "restored, dB", 1),
    ("turned_psnr", "through the grid, dB", 1),
    ("flow_psnr", "neighbours by flow, dB", 1),
    ("flow_share", "flow agrees", 2),
    ("niqe", "NIQE", 2),
    ("identity", "ID, restored to views", 2),
    ("pose_error_deg", "POSE, yaw, °", 1),
)
PLUGGED_COLUMNS = (
    ("plugged_restored", "ID (plugged in), restored", 2),
    ("plugged_turned", "through the grid", 2),
    ("plugged_views", "views", 2),
    ("plugged_others", "views to the nearest other photo", 2),
)
NOTES = (
    f"Restored and through the grid: PSNR against the photo, both as means over {COARSE} × {COARSE} pixels, since the "
    "photo is no sharper truth. Neighbours by flow: two views 5° apart, one warped into the other by optical flow "
    "where the flows there and back agree within a pixel, and the share of pixels where they do. NIQE: fitted to "
    "synthetic heads. ID and POSE: by judges that know synthetic heads only, so that on photos they say little. Means "
    "with 95 % bootstrap intervals over photos."
)
PLUGGED_NOTE = (
    "ID (plugged in): cosine of the given network's embeddings of the photo and of what was made of it. Last, of the "
    "views and that one of the other photos that they are most like: less than the column before, if they are like the "
    "person."
)


def write_photo_report(
    scores: Sequence[PhotoScores], strips: Sequence[Path], described: Mapping[str, Any], out: Path
) -> None:
    """Write all files. Raises OutputError."""
    sheet = photo_sheet(scores, strips)
    write_atomically(out / "sheet.png", lambda partial: sheet.save(partial, format="PNG"))
    page = photo_page(scores, described)
    write_atomically(out / "report.md", lambda partial: partial.write_text(page, encoding="utf-8"))
    photos = [{**asdict(item), **plugged} for item, plugged in zip(scores, plugged_cosines(scores), strict=True)]
    for photo in photos:
        del photo["plugged"]
    values = {"settings": dict(described), "code": git_revision(), "photos": photos}
    text = json.dumps(values, indent=1)
    write_atomically(out / "report.json", lambda partial: partial.write_text(text, encoding="utf-8"))


def plugged_cosines(scores: Sequence[PhotoScores]) -> list[dict[str, float | None]]:
    """By PLUGGED_COLUMNS of each photo; empty without a network, and None where there is no other photo."""
    found: list[dict[str, float | None]] = []
    for item in scores:
        mine = item.plugged
        if mine is None:
            found.append({})
            continue
        known = (other.plugged for other in scores if other.plugged)
        others = [other.cosine(mine.views) for other in known if other.photo != mine.photo]  # a copy is no other photo
        own = (mine.cosine(mine.restored), mine.cosine(mine.turned), mine.cosine(mine.views))
        cosines = (*own, max(others, default=None))
        found.append({key: cosine for (key, _, _), cosine in zip(PLUGGED_COLUMNS, cosines, strict=True)})
    return found


def photo_page(scores: Sequence[PhotoScores], described: Mapping[str, Any]) -> str:
    """Markdown."""
    settings = ", ".join(f"{key} {value}" for key, value in described.items())
    values = [{**vars(item), **plugged} for item, plugged in zip(scores, plugged_cosines(scores), strict=True)]
    columns = COLUMNS + (PLUGGED_COLUMNS if scores[0].plugged else ())
    rows = [[value["name"], *(_cell(value[key], digits) for key, _, digits in columns)] for value in values]
    means = ["mean", *(_mean([value[key] for value in values], digits) for key, _, digits in columns)]
    lines = [f"# {len(scores)} photos", "", f"Settings: {settings}. Code: {git_revision()}.", ""]
    lines += ["| photo | " + " | ".join(heading for _, heading, _ in columns) + " |", "|---" * (1 + len(columns)) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in [*rows, means]]
    views = ", ".join(f"{yaw:g}°" for yaw in VIEWS_DEG)
    notes = f"{NOTES} {PLUGGED_NOTE}" if scores[0].plugged else NOTES
    lines += ["", notes, "", f"![Photo, restoration, the same through the grid, views at {views}](sheet.png)", ""]
    return "\n".join(lines)


def photo_sheet(scores: Sequence[PhotoScores], strips: Sequence[Path]) -> Image.Image:
    """All photos' strips, one below the other, each under its name."""
    with Image.open(strips[0]) as first:
        width, height = first.size
    step = height + CAPTION_PX
    sheet = Image.new("RGB", (width, step * len(strips)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (path, item) in enumerate(zip(strips, scores, strict=True)):
        with Image.open(path) as strip:
            sheet.paste(strip.convert("RGB"), (0, row * step + CAPTION_PX))
        caption = f"{item.name}: photo, restored, the same through the grid, views"
        draw.text((4, row * step + CAPTION_PX / 2), caption, "black", ImageFont.load_default(12), anchor="lm")
    return sheet


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _mean(values: Sequence[float | None], digits: int) -> str:
    """With its interval, if there are enough."""
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return _cell(None, digits)
    low, high = mean_interval(known)
    mean = _cell(float(known.mean()), digits)
    return mean if low is None else f"{mean} ({low:.{digits}f} – {high:.{digits}f})"
