"""Tables of experiments: figures of each method, and differences to the first, paired over heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nvb_core.staging import write_atomically
from training.evaluation.compare import difference
from training.evaluation.report import cells
from training.evaluation.scores import IdentityScores
from training.evaluation.summary import MEASURES, summarize_measure

SHOWN = ("psnr", "ssim", "ms_ssim", "identity", "yaw_reading_error", "pair_psnr")


def method_table(methods: Mapping[str, Sequence[IdentityScores]], shown: Sequence[str] = SHOWN) -> list[str]:
    """Markdown: a row per method and, but for the first, its difference to the first with the 95 % interval."""
    measures = [measure for measure in MEASURES if measure.key in shown]
    lines = ["| | " + " | ".join(f"{m.label}{f', {m.unit}' if m.unit else ''}" for m in measures) + " |"]
    lines.append("|---" * (1 + len(measures)) + "|")
    first = next(iter(methods.values()))
    for name, scores in methods.items():
        row = []
        for measure in measures:
            figure = summarize_measure(measure, scores)
            text = "–" if figure.value is None else cells(figure)[1]
            if scores is not first:
                change = difference(measure, list(zip(first, scores, strict=True)))
                if change.difference is not None and change.low is not None and change.high is not None:
                    digits = 2 if measure.unit else 3
                    text += f" ({change.difference:+.{digits}f}; {change.low:+.{digits}f} to {change.high:+.{digits}f})"
            row.append(text)
        lines.append("| " + " | ".join([name, *row]) + " |")
    return [*lines, ""]


def write_result(path: Path, title: str, sections: Mapping[str, Sequence[str]], notes: str) -> None:
    """Write and print a Markdown page of sections."""
    lines = [f"# {title}", "", notes, ""]
    for heading, section in sections.items():
        lines += [f"## {heading}", "", *section]
    text = "\n".join(lines)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    print(text)
    print(f"wrote {path}")
