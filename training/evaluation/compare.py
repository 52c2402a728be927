"""Two evaluations of the same heads: the difference of each figure, with a paired bootstrap interval over heads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from nvb_core.errors import ConfigError
from nvb_core.staging import write_atomically

from .judged import with_margins
from .report import LEVELS
from .scores import IdentityScores, read_scores, scores_from_object
from .summary import FEWEST, MEASURES, RESAMPLES, Measure, interval

MUST_AGREE = ("benchmark", "level", "views", "image_size")
"""Settings without which a difference would say nothing about the systems."""
NETWORKS = ("vgg16", "alexnet", "embedding", "judges", "niqe")
"""The same of what measured them, where both name it."""
FOLDER = "data"
"""Named by an evaluation of a folder of pictures, which may show one person as several subjects: without margins."""


@dataclass(frozen=True)
class Side:
    """One of the two."""

    name: str
    settings: Mapping[str, Any]
    scores: Mapping[int, IdentityScores]
    """By seed."""

    @classmethod
    def read(cls, text: str) -> Side:
        """From a folder with report.json, one of results (results-KEY), or FOLDER:METHOD. Raises ConfigError."""
        folder, method = Path(text), ""
        if not folder.exists() and ":" in text:
            before, _, method = text.rpartition(":")
            folder = Path(before)
        report, results = folder / "report.json", folder / "settings.json"
        try:
            if report.is_file():
                values = json.loads(report.read_text(encoding="utf-8"))
                if LEVELS in values:
                    _refuse_levels(text, folder, method, values[LEVELS])
                if method and method not in values["methods"]:
                    _refuse_method(text, method, values["methods"])
                identities = (values["methods"][method] if method else values)["identities"]
                found, settings = tuple(scores_from_object(item) for item in identities), values["settings"]
            elif results.is_file() and not method:
                settings = json.loads(results.read_text(encoding="utf-8"))
                found = tuple(read_scores(path) for path in sorted(folder.glob("[0-9]" * 8 + ".json")))
            else:
                raise ConfigError(f"--compare: {text}: no report.json there; give a folder that nvb-face eval wrote")
            optional = (name for name in (*NETWORKS, FOLDER) if name in settings)
            kept = {key: settings[key] for key in (*MUST_AGREE, *optional)}
            return cls(text, kept, {item.seed: item for item in found})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"--compare: {text}: not an evaluation by this version of nvb-face ({error}); evaluate it again"
            ) from None


def _refuse_levels(text: str, folder: Path, method: str, levels: Mapping[str, Any]) -> None:
    """Raise ConfigError that names the reports of single levels."""
    ending = f":{method}" if method else ""
    single = [f"{(folder / item['report']).parent}{ending}" for item in levels.values()]
    raise ConfigError(f"--compare: {text}: holds several levels; give one of them: {', '.join(single)}")


def _refuse_method(text: str, method: str, methods: Mapping[str, Any]) -> None:
    """Raise ConfigError that names those that are there."""
    known = f"those are {', '.join(methods)}" if methods else "there is none"
    raise ConfigError(f"--compare: {text}: no method {method} in its report; {known}")


@dataclass(frozen=True)
class Difference:
    """A figure of both sides; None where one has nothing to measure."""

    key: str
    label: str
    unit: str
    a: float | None
    b: float | None
    difference: float | None
    """b - a"""
    low: float | None
    """95 % interval of the difference, with `high`; none over fewer than FEWEST."""
    high: float | None
    identities: int
    """How many took part on both sides."""

    @property
    def verdict(self) -> str:
        """`higher` or `lower`: b against a, where the interval excludes 0."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return ""
        return "higher" if self.low > 0 else "lower"


@dataclass(frozen=True)
class Comparison:
    """Differences over the heads that both sides have."""

    a: str
    b: str
    seeds: tuple[int, ...]
    differences: tuple[Difference, ...]


def compare(a: Side, b: Side) -> Comparison:
    """Compare on the common heads. Raises ConfigError if there are none or the benchmarks differ."""
    for key in (*MUST_AGREE, *(name for name in NETWORKS if name in a.settings and name in b.settings)):
        if a.settings[key] != b.settings[key]:
            raise ConfigError(
                f"--compare: {a.name} has {key} {a.settings[key]}, {b.name} {b.settings[key]}; "
                "evaluate both on the same heads and inputs, with the same files"
            )
    seeds = tuple(sorted(a.scores.keys() & b.scores.keys()))
    if not seeds:
        raise ConfigError(f"--compare: {a.name} and {b.name} have no head in common; evaluate both on the same seeds")
    pairs = list(zip(_among(a, seeds), _among(b, seeds), strict=True))
    measured = [m for m in MEASURES if any(m.part(item)[1] for pair in pairs for item in pair)]
    differences = tuple(difference(measure, pairs) for measure in measured)
    return Comparison(a.name, b.name, seeds, differences)


def _among(side: Side, seeds: Sequence[int]) -> Sequence[IdentityScores]:
    """Scores of these heads, with margins over each other: the sides' crowds may differ."""
    scores = [side.scores[seed] for seed in seeds]
    return scores if FOLDER in side.settings else with_margins(scores)


def difference(measure: Measure, pairs: Sequence[tuple[IdentityScores, IdentityScores]]) -> Difference:
    """One figure: each resample draws heads, and takes both sides of those it drew."""
    parts = np.array([[measure.part(item) for item in pair] for pair in pairs])  # (I, 2 sides, 2)
    parts = parts[(parts[:, :, 1] > 0).all(1)]
    if not len(parts):
        return Difference(measure.key, measure.label, measure.unit, None, None, None, None, None, 0)
    picks = np.random.default_rng(0).integers(len(parts), size=(RESAMPLES, len(parts)))
    totals = np.concatenate([parts.sum(0)[None], parts[picks].sum(1)])  # (1 + R, 2, 2)
    a, b = (totals[..., 0] / totals[..., 1]).T
    values = (float(a[0]), float(b[0]), float(b[0] - a[0]))
    low, high = interval((b - a)[1:], len(parts))
    return Difference(measure.key, measure.label, measure.unit, *values, low, high, len(parts))


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write comparison.json and comparison.md. Raises OutputError."""
    text = json.dumps(asdict(comparison), indent=1)
    write_atomically(out / "comparison.json", lambda partial: partial.write_text(text, encoding="utf-8"))
    markdown = "\n".join(
        [
            f"# {comparison.b} against {comparison.a}",
            "",
            f"{caption(comparison)} Intervals: 95 %, paired bootstrap over heads, of which it takes {FEWEST}.",
            "",
            "| figure | A | B | B - A | 95 % interval | B is |",
            "|---|---|---|---|---|---|",
            *("| " + " | ".join(row(item, len(comparison.seeds))) + " |" for item in comparison.differences),
            "",
        ]
    )
    write_atomically(out / "comparison.md", lambda partial: partial.write_text(markdown, encoding="utf-8"))


def to_table(comparison: Comparison) -> Table:
    """The differences for a terminal."""
    heads = ("figure", "A", "B", "B - A", "95 % interval", "B is")
    table = Table(*heads, title=caption(comparison), title_justify="left")
    for item in comparison.differences:
        table.add_row(*row(item, len(comparison.seeds)))
    return table


def caption(comparison: Comparison) -> str:
    """Which is A, which B."""
    return f"A: {comparison.a}. B: {comparison.b}. {len(comparison.seeds)} heads in common."


def row(item: Difference, heads: int) -> tuple[str, ...]:
    """Label, with the count where not all heads took part, both values, difference, interval and verdict."""
    if item.a is None or item.b is None or item.difference is None:
        return item.label, "–", "–", "–", "", ""
    digits = 2 if item.unit else 3
    label = f"{item.label}, {item.unit}" if item.unit else item.label
    values = (f"{item.a:.{digits}f}", f"{item.b:.{digits}f}", f"{item.difference:+.{digits}f}")
    label += "" if item.identities == heads else f" ({item.identities} heads)"
    between = "" if item.low is None else f"{item.low:+.{digits}f} – {item.high:+.{digits}f}"
    return label, *values, between, item.verdict
