"""Figures of several systems as Markdown, laid out as the paper's Table 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .summary import Figure, cells

UP, DOWN = "\u2191", "\u2193"
COLUMNS = (  # of the paper's Table 1, and PSNR
    ("psnr", f"PSNR {UP}"),
    ("ssim", f"SSIM {UP}"),
    ("lpips_vgg16", f"LPIPS {DOWN}"),
    ("dists", f"DISTS {DOWN}"),
    ("fid", f"FID {DOWN}"),
    ("identity", f"ID {UP}"),
    ("yaw_reading_error", f"POSE, yaw {DOWN}"),
)
COPYING = {"psnr": "copy_psnr", "ssim": "copy_ssim"}
"""What is measured of showing the input, undegraded, in the place of every view."""
TABLE_NOTE = (
    "ID and POSE are read by our own judges, LPIPS, DISTS and FID need weights of others (dashes: not measured). "
    "Best values are bold; copying shows the undegraded input in the place of every view."
)


def table(systems: Mapping[str, Sequence[Figure]]) -> list[str]:
    """A row for each system, the model first, and one for copying the input, which is the same for all."""
    values = {name: _row(figures, {}) for name, figures in systems.items()}
    values["copying the input"] = _row(next(iter(systems.values())), COPYING)
    best = {key: _best(key, [row[key] for row in values.values()]) for key, _ in COLUMNS}
    lines = ["| method | " + " | ".join(label for _, label in COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, row in values.items():
        texts = [_text(row[key], best[key]) for key, _ in COLUMNS]
        lines.append("| " + " | ".join([name, *texts]) + " |")
    return [*lines, ""]


def _row(figures: Sequence[Figure], instead: Mapping[str, str]) -> dict[str, Figure | None]:
    """Figures by column; with `instead` only those that it names, by what stands for them."""
    found = {figure.measure.key: figure for figure in figures}
    return {key: found.get(instead.get(key, "") if instead else key) for key, _ in COLUMNS}


def _best(key: str, figures: Sequence[Figure | None]) -> float | None:
    known = [figure.value for figure in figures if figure is not None and figure.value is not None]
    label = dict(COLUMNS)[key]
    return None if len(known) < 2 else (max if label.endswith(UP) else min)(known)


def _text(figure: Figure | None, best: float | None) -> str:
    if figure is None or figure.value is None:
        return "–"
    text = cells(figure)[1]
    return f"**{text}**" if figure.value == best else text
