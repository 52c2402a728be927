"""Several levels on one page: a table laid out as the paper's Table 1, and plots of figures against level and yaw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nvb_core.staging import write_atomically

from .plots import level_plot, yaw_plot
from .report import Report, cells
from .scores import IdentityScores
from .selection import Level
from .summary import MEASURES, Figure, summarize_measure

UP, DOWN = "\u2191", "\u2193"
COLUMNS = (  # of the paper's Table 1, and PSNR
    ("psnr", f"PSNR {UP}"),
    ("ssim", f"SSIM {UP}"),
    ("lpips", f"LPIPS {DOWN}"),
    ("dists", f"DISTS {DOWN}"),
    ("fid", f"FID {DOWN}"),
    ("identity", f"ID {UP}"),
    ("yaw_reading_error", f"POSE, yaw {DOWN}"),
)
COPYING = {"psnr": "copy_psnr", "ssim": "copy_ssim"}
"""What is measured of showing the input, undegraded, in the place of every view."""
LEVEL_PLOT, YAW_PLOT = "level.png", "yaw.png"
_BY_KEY = {measure.key: measure for measure in MEASURES}


def write_levels(reports: Mapping[Level, Report], out: Path) -> None:
    """Write OUT/report.md and its plots; each level's own report lies in a folder below. Raises OutputError."""
    write_plots(reports, out)
    first = next(iter(reports.values()))
    settings = ", ".join(f"{key} {value}" for key, value in first.settings.items() if key != "level")
    lines = [f"# {first.weights['file']} by level", "", f"{len(first.scores)} synthetic heads. {settings}.", ""]
    for level, report in reports.items():
        lines += [f"## Level {level}", "", *table(report), f"[All figures](level{level}/report.md)", ""]
    lines += [
        "ID and POSE are read by our own judges, LPIPS, DISTS and FID need weights of others (dashes: not measured). "
        "Best values are bold; copying shows the undegraded input in the place of every view.",
        "",
        f"![Figures by level]({LEVEL_PLOT})",
        "",
        f"![Figures by yaw]({YAW_PLOT})",
        "",
    ]
    text = "\n".join(lines)
    write_atomically(out / "report.md", lambda partial: partial.write_text(text, encoding="utf-8"))


def write_plots(reports: Mapping[Level, Report], out: Path) -> None:
    """Write the plots of some levels. Raises OutputError."""
    methods = {level: rows(report) for level, report in reports.items()}
    own = {f"level {level}": report.scores for level, report in reports.items()}
    write_atomically(out / LEVEL_PLOT, lambda partial: level_plot(methods, partial))
    write_atomically(out / YAW_PLOT, lambda partial: yaw_plot(own, partial))


def rows(report: Report) -> dict[str, Sequence[IdentityScores]]:
    """The model and the other systems, by name."""
    return {report.weights["file"]: report.scores, **report.methods}


def table(report: Report) -> list[str]:
    """Markdown: a row for each method and one for copying the input."""
    values = {name: _row(scores, {}) for name, scores in rows(report).items()}
    values["copying the input"] = _row(report.scores, COPYING)
    best = {key: _best(key, [row[key] for row in values.values()]) for key, _ in COLUMNS}
    lines = ["| method | " + " | ".join(label for _, label in COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, row in values.items():
        texts = [_text(row[key], best[key]) for key, _ in COLUMNS]
        lines.append("| " + " | ".join([name, *texts]) + " |")
    return [*lines, ""]


def _row(scores: Sequence[IdentityScores], instead: Mapping[str, str]) -> dict[str, Figure | None]:
    """Figures by column; with `instead` only those that it names, by what stands for them."""
    keys = {key: instead.get(key) if instead else key for key, _ in COLUMNS}
    measures = {key: _BY_KEY.get(name or "") for key, name in keys.items()}
    return {key: None if m is None else summarize_measure(m, scores) for key, m in measures.items()}


def _best(key: str, figures: Sequence[Figure | None]) -> float | None:
    known = [figure.value for figure in figures if figure is not None and figure.value is not None]
    label = dict(COLUMNS)[key]
    return None if len(known) < 2 else (max if label.endswith(UP) else min)(known)


def _text(figure: Figure | None, best: float | None) -> str:
    if figure is None or figure.value is None:
        return "–"
    text = cells(figure)[1]
    return f"**{text}**" if figure.value == best else text
