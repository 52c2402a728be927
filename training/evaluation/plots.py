"""Figures against level and against yaw, as PNG, without a display."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvb_core.errors import ConfigError

from .scores import IdentityScores, ViewScores
from .selection import Level
from .summary import MEASURES, summarize_measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL_PLOT, YAW_PLOT = "level.png", "yaw.png"
PLOTTED = ("psnr", "ssim", "identity", "yaw_reading_error", "restored_psnr", "pair_psnr")
YAW_EDGES_DEG = (0, 10, 20, 30, 40, 60, 90, 181)
BY_VIEW = (
    ("psnr", "PSNR, dB"),
    ("ssim", "SSIM"),
    ("identity", "ID"),
    ("yaw_reading_error_deg", "POSE, yaw error, °"),
)
_DPI = 110
_LINES = ("-", "--", ":", "-.")


def level_plot(methods: Mapping[Level, Mapping[str, Sequence[IdentityScores]]], path: Path) -> None:
    """A small plot for each figure: its value at each level, one line per method, bars for the 95 % intervals."""
    measures = [measure for measure in MEASURES if measure.key in PLOTTED]
    figure, axes = _grid(len(measures))
    names = list(next(iter(methods.values())))
    for axis, measure in zip(axes, measures, strict=False):
        axis.set_title(f"{measure.label}{f', {measure.unit}' if measure.unit else ''}", fontsize=9)
        for name in names:
            found = {level: summarize_measure(measure, scores[name]) for level, scores in methods.items()}
            points = [
                (level, f.value, *_arms(f.value, f.low, f.high)) for level, f in found.items() if f.value is not None
            ]
            if points:
                x, y, below, above = zip(*points, strict=True)
                axis.errorbar(x, y, (below, above), marker="o", capsize=3, label=name)
        axis.set_xticks(list(methods))
        axis.set_xlabel("level of degradation")
    _save(figure, axes, path)


def _arms(value: float, low: float | None, high: float | None) -> tuple[float, float]:
    """Of an error bar, down and up; none without an interval."""
    return (0.0, 0.0) if low is None or high is None else (value - low, high - value)


def require_plotting() -> None:
    """Raise ConfigError now and not after the measuring if the package that draws is missing."""
    if find_spec("matplotlib") is None:
        raise ConfigError("plots by yaw and level need the package matplotlib; pip install 'nvb-face[train]'")


def yaw_plot(systems: Mapping[str, Mapping[Level, Sequence[IdentityScores]]], path: Path) -> None:
    """A small plot for each figure of single views: its mean in bins of |yaw|, bars for 95 % intervals over heads.

    A line for each system, by name, and level; of several levels a colour stands for the level.
    """
    figure, axes = _grid(len(BY_VIEW))
    for axis, (key, label) in zip(axes, BY_VIEW, strict=False):
        axis.set_title(label, fontsize=9)
        for name, style, scores in _yaw_lines(systems):
            points = yaw_curve(scores, key)
            if points:
                x, y, error = zip(*points, strict=True)
                axis.errorbar(x, y, error, marker="o", capsize=3, label=name, **style)
        axis.set_xlabel("|yaw| of the view, °")
    _save(figure, axes, path)


def _yaw_lines(
    systems: Mapping[str, Mapping[Level, Sequence[IdentityScores]]],
) -> Iterator[tuple[str, dict[str, Any], Sequence[IdentityScores]]]:
    """Each line's label, looks and scores."""
    for system, (name, by_level) in enumerate(systems.items()):
        for place, (level, scores) in enumerate(by_level.items()):
            if len(by_level) == 1:
                yield name, {"color": f"C{system}"}, scores
            else:
                label = f"level {level}" if len(systems) == 1 else f"{name}, level {level}"
                yield label, {"color": f"C{place}", "linestyle": _LINES[system % len(_LINES)]}, scores


def yaw_curve(scores: Sequence[IdentityScores], name: str) -> list[tuple[float, float, float]]:
    """(mean |yaw|, mean of heads' means, 1.96 standard errors) for each bin of |yaw| in which a head has a view."""
    points = []
    for low, high in pairwise(YAW_EDGES_DEG):
        heads = [_in_bin(item.views, name, low, high) for item in scores]
        means = [(np.mean([yaw for yaw, _ in head]), np.mean([value for _, value in head])) for head in heads if head]
        if means:
            yaws, values = np.array(means).T
            error = 1.96 * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            points.append((float(yaws.mean()), float(values.mean()), float(error)))
    return points


def _in_bin(views: Sequence[ViewScores], name: str, low: float, high: float) -> list[tuple[float, float]]:
    found = [(abs(view.yaw_deg), getattr(view, name)) for view in views]
    return [(yaw, value) for yaw, value in found if value is not None and low <= yaw < high]


def _grid(count: int) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.4 * columns, 2.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _save(figure: Figure, axes: Sequence[Axes], path: Path) -> None:
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), fontsize=8)
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": "nvb-face"})
