"""What an evaluation leaves behind: report.json, report.md, sheet.png, and a table on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from nvb_core.staging import write_atomically

from .scores import IdentityScores
from .sheet import MAX_STRIPS, contact_sheet
from .summary import Figure, summarize

CONVENTIONS = (
    "Every figure is a mean over identities (of means over an identity's views), with the 95 % bootstrap interval "
    "over identities. PSNR: peak 2 on images in [-1, 1], in dB per picture. SSIM: Gaussian window of 11 px, sigma 1.5, "
    "range 1 on images in [0, 1]; MS-SSIM: as many of its five scales as hold a window. GMSD: on halved luminance, "
    "less is better. NIQE: of an identity's views together, fitted to clean renders of 128 px, less is better. Warped: "
    "neighbour views 5° of yaw apart, one warped into the other by true depth and cameras, compared on skin that both "
    "see. Faces found: by scikit-image's LBP cascade in views with |yaw| <= 15°, generated against true. ID: cosine of "
    "our ID judge's embeddings of the generated and the true view; person above the nearest other: cosine of the mean "
    "embeddings of a head's generated and true views, less the largest cosine to another head's true views. POSE: what "
    "our POSE judge reads in the generated view against the camera asked for, and in the true view (its own error)."
)


@dataclass(frozen=True)
class Report:
    """One evaluation."""

    weights: dict[str, Any]
    """File name, sha256 and model name."""
    settings: dict[str, Any]
    code: str
    """Git revision."""
    render_seconds: float
    """Spent in this run; 0 if all heads lay ready."""
    scores: tuple[IdentityScores, ...]
    methods: Mapping[str, tuple[IdentityScores, ...]] = field(default_factory=dict)
    """Of other systems, on the same heads."""

    @property
    def method_figures(self) -> dict[str, list[Figure]]:
        """All figures of each other system, in the same order."""
        return {name: summarize(scores) for name, scores in self.methods.items()}

    @property
    def figures(self) -> list[Figure]:
        """All figures, those with a bar first."""
        return summarize(self.scores)

    @property
    def machines(self) -> list[str]:
        """Where the identities were measured."""
        return sorted({item.machine for item in self.scores})

    @property
    def seconds(self) -> dict[str, float]:
        """By stage, over all identities, whichever run measured them."""
        stages = dict.fromkeys(stage for item in self.scores for stage in item.seconds)
        totals = {stage: sum(item.seconds.get(stage, 0.0) for item in self.scores) for stage in stages}
        return {"rendering (this run)": self.render_seconds, **totals}


def write_report(report: Report, out: Path, strips: Sequence[Path]) -> None:
    """Write all files of a report; strips are the pictures of its identities. Raises OutputError."""
    sheet = contact_sheet(strips, report.scores)
    write_atomically(out / "sheet.png", lambda partial: sheet.save(partial, format="PNG"))
    markdown = to_markdown(report)
    write_atomically(out / "report.md", lambda partial: partial.write_text(markdown, encoding="utf-8"))
    text = json.dumps(to_json(report), indent=1)
    write_atomically(out / "report.json", lambda partial: partial.write_text(text, encoding="utf-8"))


def to_json(report: Report) -> dict[str, Any]:
    """Everything, per identity and view too."""
    return {
        "weights": report.weights,
        "settings": report.settings,
        "code": report.code,
        "machines": report.machines,
        "seconds": report.seconds,
        "conventions": CONVENTIONS,
        "figures": {
            figure.measure.key: {
                "label": figure.measure.label,
                "unit": figure.measure.unit,
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
                "identities": figure.identities,
                "at_least": figure.measure.at_least,
                "at_most": figure.measure.at_most,
                "passed": figure.passed,
            }
            for figure in report.figures
        },
        "identities": [asdict(item) for item in report.scores],
        "methods": {
            name: {
                "figures": {f.measure.key: {"value": f.value, "low": f.low, "high": f.high} for f in figures},
                "identities": [asdict(item) for item in report.methods[name]],
            }
            for name, figures in report.method_figures.items()
        },
    }


def to_markdown(report: Report) -> str:
    """A page for people."""
    figures = report.figures
    barred = [figure for figure in figures if figure.passed is not None]
    others = [figure for figure in figures if figure.passed is None]
    settings = ", ".join(f"{key} {value}" for key, value in report.settings.items())
    first, last = report.scores[0].seed, report.scores[-1].seed
    lines = [
        f"# {report.weights['file']}: {headline(report)}",
        "",
        f"{len(report.scores)} synthetic heads, seeds {first}–{last}, of {len(report.scores[0].views)} views each. "
        f"Settings: {settings}.",
        "",
        "| figure | value | 95 % interval | bar | |",
        "|---|---|---|---|---|",
        *("| " + " | ".join((*cells(figure), verdict(figure))) + " |" for figure in barred),
        "",
        "| beside them | value | 95 % interval |",
        "|---|---|---|",
        *("| " + " | ".join(cells(figure)[:3]) + " |" for figure in others),
        "",
        *method_lines(report),
        CONVENTIONS,
        "",
        f"![Inputs, restorations, generated and true views of the first {MAX_STRIPS} heads](sheet.png)",
        "",
        "| stage | seconds |",
        "|---|---|",
        *(f"| {stage} | {value:.1f} |" for stage, value in report.seconds.items()),
        "",
        f"Machine: {'; '.join(report.machines)}. Code: {report.code}. Weights: sha256 {report.weights['sha256']}.",
        "",
    ]
    return "\n".join(lines)


def method_lines(report: Report) -> list[str]:
    """A table in which each other system is a column; nothing without one."""
    if not report.methods:
        return []
    columns = [report.figures, *report.method_figures.values()]
    return [
        "| figure, 95 % interval | " + " | ".join([report.weights["file"], *report.methods]) + " |",
        "|---" * (1 + len(columns)) + "|",
        *(
            "| " + " | ".join([row[0].measure.label, *(_value_and_interval(figure) for figure in row)]) + " |"
            for row in zip(*columns, strict=True)
        ),
        "",
        "![Input, true views, and those of each system](side_by_side.png)",
        "",
    ]


def to_table(report: Report) -> Table:
    """The figures for a terminal."""
    heads = ("figure", "value", "95 % interval", "bar", "", *report.methods)
    table = Table(*heads, title=headline(report), title_justify="left")
    for figure, *others in zip(report.figures, *report.method_figures.values(), strict=True):
        style = {True: "green", False: "red", None: ""}[figure.passed]
        table.add_row(*cells(figure), verdict(figure), *(_value(other) for other in others), style=style)
    return table


def _value(figure: Figure) -> str:
    return "–" if figure.value is None else cells(figure)[1]


def _value_and_interval(figure: Figure) -> str:
    return _value(figure) if figure.value is None else f"{_value(figure)} ({cells(figure)[2]})"


def headline(report: Report) -> str:
    """`7 of 10 bars met`."""
    verdicts = [figure.passed for figure in report.figures if figure.passed is not None]
    return f"{sum(verdicts)} of {len(verdicts)} bars met"


def cells(figure: Figure) -> tuple[str, str, str, str]:
    """Label, value, interval and bar."""
    if figure.value is None or figure.low is None or figure.high is None:
        return figure.measure.label, "nothing to measure", "", figure.measure.bar
    digits = 2 if figure.measure.unit else 3
    unit = {"": "", "°": "°"}.get(figure.measure.unit, f" {figure.measure.unit}")
    interval = f"{figure.low:.{digits}f} – {figure.high:.{digits}f}"
    return figure.measure.label, f"{figure.value:.{digits}f}{unit}", interval, figure.measure.bar


def verdict(figure: Figure) -> str:
    """`met`, `missed`, or nothing without a bar."""
    return {True: "met", False: "missed", None: ""}[figure.passed]
