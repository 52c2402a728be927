"""Several levels on one page: a table laid out as the paper's Table 1, and plots of figures against level and yaw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvb_core.staging import write_atomically

from .plots import LEVEL_PLOT, YAW_PLOT, level_plot, yaw_plot
from .report import LEVELS, SHEET, SIDE_BY_SIDE, Report, remove_stale, to_json
from .selection import Level
from .table1 import TABLE_NOTE, table


def write_levels(reports: Mapping[Level, Report], out: Path) -> None:
    """Write OUT/report.md, report.json and plots; each level's own report lies in a folder below. Raises OutputError.

    What an evaluation of a single level left there besides, doesn't belong to them.
    """
    write_plots(reports, out)
    markdown, text = to_markdown(reports), json.dumps(levels_to_json(reports), indent=1)
    write_atomically(out / "report.md", lambda partial: partial.write_text(markdown, encoding="utf-8"))
    write_atomically(out / "report.json", lambda partial: partial.write_text(text, encoding="utf-8"))
    remove_stale(out, SHEET, SIDE_BY_SIDE)


def to_markdown(reports: Mapping[Level, Report]) -> str:
    """A page for people."""
    first = next(iter(reports.values()))
    settings = ", ".join(f"{key} {v}" for key, v in first.settings.items() if key != "level" and v is not None)
    lines = [f"# {first.weights['file']} by level", "", f"{first.subjects}. {settings}.", ""]
    for level, report in reports.items():
        lines += [f"## Level {level}", "", *table(report.systems), f"[All figures](level{level}/report.md)", ""]
    lines += [TABLE_NOTE, "", *(f"- {line}" for line in first.remarks), ""]
    lines += [f"![Figures by level]({LEVEL_PLOT})", "", f"![Figures by yaw]({YAW_PLOT})", ""]
    return "\n".join(lines)


def levels_to_json(reports: Mapping[Level, Report]) -> dict[str, Any]:
    """What the levels' own reports hold, by level, without the identities."""
    levels = {}
    for level, report in reports.items():
        values = to_json(report)
        for holder in (values, *values["methods"].values()):
            del holder["identities"]
        levels[str(level)] = {"report": f"level{level}/report.json", **values}
    return {"weights": next(iter(reports.values())).weights, LEVELS: levels}


def write_plots(reports: Mapping[Level, Report], out: Path) -> None:
    """Write the plots of some levels. Raises OutputError."""
    by_level = {level: report.measured for level, report in reports.items()}
    names = next(iter(by_level.values()))
    by_name = {name: {level: measured[name] for level, measured in by_level.items()} for name in names}
    write_atomically(out / LEVEL_PLOT, lambda partial: level_plot(by_level, partial))
    write_atomically(out / YAW_PLOT, lambda partial: yaw_plot(by_name, partial))
