"""What an evaluation leaves behind: report.json, report.md, yaw.png, sheet.png, and a table on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

from nvb_core.staging import write_atomically, writing

from .plots import LEVEL_PLOT, YAW_PLOT, yaw_plot
from .scores import IdentityScores, scores_to_object
from .selection import Level
from .sheet import MAX_STRIPS, contact_sheet
from .summary import Figure, cells, summarize
from .table1 import TABLE_NOTE, table

SHEET, SIDE_BY_SIDE = "sheet.png", "side_by_side.png"
LEVELS = "levels"
"""What report.json of several levels has, and that of one doesn't."""

CONVENTIONS = (
    "Every figure is a mean over identities (of means over an identity's views), with the 95 % bootstrap interval "
    "over identities. PSNR: peak 2 on images in [-1, 1], in dB per picture. SSIM: Gaussian window of 11 px, sigma 1.5, "
    "range 1 on images in [0, 1]; MS-SSIM: as many of its five scales as hold a window. GMSD: on halved luminance, "
    "less is better. NIQE: of an identity's pictures together, fitted to clean renders of 128 px, less is better. ID: "
    "cosine of our ID judge's embeddings of a picture and the true one."
)
OF_VIEWS = (
    "Warped: neighbour views 5° of yaw apart, one warped into the other by true depth and cameras, compared on skin "
    "that both see. Faces found: by scikit-image's LBP cascade in views with |yaw| <= 15°, generated against true. "
    "Person above the nearest other: cosine of the mean embeddings of a head's generated and true views, less the "
    "largest cosine to another head's true views; the more heads, the nearer. POSE: what our POSE judge reads in the "
    "generated view against the camera asked for, and in the true view (its own error)."
)
OWN_PICTURES = (
    "Pictures are of a folder, and bars, which are meant for synthetic heads, don't apply. Whole pictures or canonical "
    "crops are resampled to the model's size: figures at another size can't be compared. The 95 % interval takes "
    "subjects for independent, which several moments of one person aren't. No depth is known: neighbours 5° apart are "
    "compared where the optical flow there and back agrees within a pixel. NIQE, ID and POSE know synthetic heads only."
)
VIEWS_SHOWN = "Inputs, restorations, generated and true views"
RESTORATIONS_SHOWN = "Degraded, restored and clean pictures"


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
    names: Mapping[int, str] = field(default_factory=dict)
    """Of the subjects by seed, if they are pictures of a folder and not synthetic heads."""
    remarks: tuple[str, ...] = ()
    """Lines that belong to the figures: what wasn't measured and why, whose weights are in doubt."""
    notes: tuple[str, ...] = ()
    """How the others that need other people's networks are to be read."""

    @property
    def subjects(self) -> str:
        """`300 synthetic heads`, or `12 subjects of nersemble`."""
        kind = f"subjects of {self.settings['data']}" if self.names else "synthetic heads"
        return f"{len(self.scores)} {kind}"

    def _summarize(self, scores: Sequence[IdentityScores]) -> list[Figure]:
        """The same figures for all systems; of a folder those that its pictures tell, and without bars."""
        unknown = {figure.measure.key for figure in summarize(self.scores) if figure.value is None}
        found = [
            figure
            for figure in summarize(scores)
            if figure.measure.key not in unknown or not (self.names or figure.measure.optional)
        ]
        return [figure.without_bar() for figure in found] if self.names else found

    @cached_property
    def method_figures(self) -> dict[str, list[Figure]]:
        """All figures of each other system, in the same order."""
        return {name: self._summarize(scores) for name, scores in self.methods.items()}

    @cached_property
    def figures(self) -> list[Figure]:
        """All figures, those with a bar first."""
        return self._summarize(self.scores)

    @property
    def systems(self) -> dict[str, list[Figure]]:
        """Figures of the model and of the other systems, by name."""
        return {self.weights["file"]: self.figures, **self.method_figures}

    @property
    def measured(self) -> dict[str, tuple[IdentityScores, ...]]:
        """Their scores."""
        return {self.weights["file"]: self.scores, **self.methods}

    @property
    def has_views(self) -> bool:
        """Whether views were measured, and not only restorations."""
        return any(item.views for item in self.scores)

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


def write_report(report: Report, out: Path, strips: Sequence[Path], beside: Image.Image | None = None) -> None:
    """Write all files of a report, and remove those that an earlier one left and that this one doesn't have.

    `strips` are the pictures of its identities, `beside` shows them beside those of other systems. Raises OutputError.
    """
    sheet = contact_sheet(strips, report.scores, report.names)
    write_atomically(out / SHEET, lambda partial: sheet.save(partial, format="PNG"))
    if beside is not None:
        write_atomically(out / SIDE_BY_SIDE, lambda partial: beside.save(partial, format="PNG"))
    if report.has_views:
        level: Level = report.settings["level"]
        by_name = {name: {level: scores} for name, scores in report.measured.items()}
        write_atomically(out / YAW_PLOT, lambda partial: yaw_plot(by_name, partial))
    markdown, text = to_markdown(report), json.dumps(to_json(report), indent=1)
    write_atomically(out / "report.md", lambda partial: partial.write_text(markdown, encoding="utf-8"))
    write_atomically(out / "report.json", lambda partial: partial.write_text(text, encoding="utf-8"))
    stale = [LEVEL_PLOT, *([] if beside else [SIDE_BY_SIDE]), *([] if report.has_views else [YAW_PLOT])]
    remove_stale(out, *stale)


def remove_stale(out: Path, *names: str) -> None:
    """Remove files of a report that was overwritten. Raises OutputError."""
    with writing(out):
        for name in names:
            (out / name).unlink(missing_ok=True)


def to_json(report: Report) -> dict[str, Any]:
    """Everything, per identity and view too."""
    return {
        "weights": report.weights,
        "settings": report.settings,
        "code": report.code,
        "machines": report.machines,
        "seconds": report.seconds,
        "conventions": " ".join([conventions(report), *report.notes]),
        "remarks": report.remarks,
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
        "identities": [scores_to_object(item) for item in report.scores],
        "names": {str(seed): name for seed, name in report.names.items()},
        "methods": {
            name: {
                "figures": {f.measure.key: {"value": f.value, "low": f.low, "high": f.high} for f in figures},
                "identities": [scores_to_object(item) for item in report.methods[name]],
            }
            for name, figures in report.method_figures.items()
        },
    }


def to_markdown(report: Report) -> str:
    """A page for people."""
    figures = report.figures
    barred = [figure for figure in figures if figure.passed is not None]
    others = [figure for figure in figures if figure.passed is None]
    bars = [
        "| figure | value | 95 % interval | bar | |",
        "|---|---|---|---|---|",
        *("| " + " | ".join((*cells(figure), verdict(figure))) + " |" for figure in barred),
        "",
    ]
    lines = [
        f"# {report.weights['file']}: {headline(report)}",
        "",
        f"{measured_on(report)} Settings: {settings_line(report)}.",
        "",
        *([*table(report.systems), TABLE_NOTE, ""] if report.has_views else []),
        *(bars if barred else []),
        f"| {'beside them' if barred else 'figure'} | value | 95 % interval |",
        "|---|---|---|",
        *("| " + " | ".join(cells(figure)[:3]) + " |" for figure in others),
        "",
        *method_lines(report),
        " ".join([conventions(report), *report.notes]),
        "",
        *(f"- {line}" for line in report.remarks),
        "",
        f"![{VIEWS_SHOWN if report.has_views else RESTORATIONS_SHOWN}, the first {MAX_STRIPS}]({SHEET})",
        "",
        *([f"![Figures by yaw]({YAW_PLOT})", ""] if report.has_views else []),
        "| stage | seconds |",
        "|---|---|",
        *(f"| {stage} | {value:.1f} |" for stage, value in report.seconds.items()),
        "",
        f"Machine: {'; '.join(report.machines)}. Code: {report.code}. Weights: sha256 {report.weights['sha256']}.",
        "",
    ]
    return "\n".join(lines)


def measured_on(report: Report) -> str:
    """A sentence."""
    first, last = report.scores[0].seed, report.scores[-1].seed
    counts = sorted({len(item.views) for item in report.scores})
    views = f"{counts[0]}–{counts[-1]}" if len(counts) > 1 else str(counts[0])
    seeds = "" if report.names else f", seeds {first}–{last}"
    return f"{report.subjects}{seeds}" + (f", of {views} views each." if counts[-1] else ", restored.")


def settings_line(report: Report) -> str:
    """Without those that don't apply."""
    return ", ".join(f"{key} {value}" for key, value in report.settings.items() if value is not None)


def conventions(report: Report) -> str:
    """How the figures are made."""
    return " ".join([CONVENTIONS, *([OF_VIEWS] if report.has_views else []), *([OWN_PICTURES] if report.names else [])])


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
        f"![Input, true views, and those of each system]({SIDE_BY_SIDE})",
        "",
    ]


def to_table(report: Report) -> Table:
    """The figures for a terminal."""
    heads = ("figure", "value", "95 % interval", "bar", "", *report.methods)
    remarks = "\n".join(report.remarks) or None
    table = Table(*heads, title=headline(report), title_justify="left", caption=remarks, caption_justify="left")
    for figure, *others in zip(report.figures, *report.method_figures.values(), strict=True):
        style = {True: "green", False: "red", None: ""}[figure.passed]
        table.add_row(*cells(figure), verdict(figure), *(_value(other) for other in others), style=style)
    return table


def _value(figure: Figure) -> str:
    return "–" if figure.value is None else cells(figure)[1]


def _value_and_interval(figure: Figure) -> str:
    return _value(figure) if figure.low is None else f"{_value(figure)} ({cells(figure)[2]})"


def headline(report: Report) -> str:
    """`7 of 10 bars met`, or what was measured on."""
    if report.names:
        return report.subjects
    verdicts = [figure.passed for figure in report.figures if figure.passed is not None]
    return f"{sum(verdicts)} of {len(verdicts)} bars met"


def verdict(figure: Figure) -> str:
    """`met`, `missed`, or nothing without a bar."""
    return {True: "met", False: "missed", None: ""}[figure.passed]
