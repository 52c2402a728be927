"""Write a plan as a face folder: in parallel, resumable at any moment, with a report of what was left out.

OUT/{subject}/{view}.png, OUT/dataset.json, OUT/report.json
OUT/conversion.jsonl  settings, then a line for each image that is done; a second run goes on behind it, and tries again
                      what the machine, and not the image, kept from being read
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from nvb_core.align import CropBox
from nvb_core.errors import ConfigError, OutputError
from nvb_core.staging import locked, write_atomically, writing

from ..index import INDEX_NAME, write_index
from .image import TRY_AGAIN, Unusable, convert_image
from .plan import EXPECTED, JOURNAL_NAME, Dropped, Item, Plan

REPORT_NAME = "report.json"
FORMAT = "nvb-face data convert 1"


@dataclass(frozen=True)
class Report:
    """What a conversion left."""

    kind: str
    images: int
    subjects: int
    with_camera: int
    side_px: int  # 0 if nothing is left
    dropped: tuple[Dropped, ...]

    def to_json(self) -> dict[str, Any]:
        """All files that were dropped, by reason."""
        reasons: dict[str, list[dict[str, str]]] = {}
        for entry in self.dropped:
            reasons.setdefault(entry.reason, []).append({"file": entry.file, "detail": entry.detail})
        counts = {k: getattr(self, k) for k in ("kind", "images", "subjects", "with_camera", "side_px")}
        return {**counts, "dropped": {k: {"count": len(v), "files": v} for k, v in sorted(reasons.items())}}

    def lines(self) -> list[str]:
        """A summary to print."""
        cameras = "" if self.with_camera == self.images else f", {self.with_camera} of them with a camera"
        lines = [f"{self.images} images of {self.side_px} px, {self.subjects} subjects{cameras}"]
        for reason, count in Counter(entry.reason for entry in self.dropped).most_common():
            first = next(entry for entry in self.dropped if entry.reason == reason)
            detail = f": {first.detail}" if first.detail else ""
            lines.append(f"dropped {count}: {reason} (first: {first.file}{detail})")
        return lines


def run(plan: Plan, out: Path, size: int | None, workers: int, show_progress: bool = True) -> Report:
    """Write what isn't written yet and, at the end, report and index.

    `size` is the side in pixels of the canonical view (of the whole image where the plan has no margin); None keeps
    sizes, of which the most frequent is kept. Raises ConfigError if nothing is left or OUT holds something else,
    OutputError if it can't be written, OccupiedError if another process is at it.
    """
    side = None if size is None else round(size * (plan.margin or 1.0))
    require_outside(out, plan.root)
    with locked(out), writing(out):
        out.mkdir(parents=True, exist_ok=True)
        settings = {"format": FORMAT, "kind": plan.kind, "side": side, "margin": plan.margin, **plan.settings}
        done = open_journal(out, settings)
        keys = {item.name: _key(item, plan.root) for item in plan.items}
        _require_same_source(out, done, keys)
        todo = [item for item in plan.items if not _is_done(done.get(item.name), keys[item.name], out / item.name)]
        if any("side" in done.get(item.name, ()) for item in todo):
            (out / INDEX_NAME).unlink(missing_ok=True)  # if this run is stopped, its labels would be of other pictures
        with (out / JOURNAL_NAME).open("a", encoding="utf-8") as journal:
            for item, outcome in _convert_all(plan, todo, out, side, workers, show_progress):
                done[item.name] = {"name": item.name, "key": keys[item.name], **outcome}
                if outcome.get("reason") != TRY_AGAIN:
                    journal.write(json.dumps(done[item.name]) + "\n")
                    journal.flush()
        return _finish(plan, out, done)


def print_report(report: Report, out: Path) -> None:
    """Print the summary, what isn't Unicode in file names with backslashes: a terminal may refuse it."""
    first, *others = report.lines()
    lines = [f"wrote {out}: {first}", *others]
    if report.dropped:
        lines.append(f"all {len(report.dropped)} that were dropped: {out / REPORT_NAME}")
    print("\n".join(lines).encode(errors="backslashreplace").decode())


def require_outside(out: Path, source: Path) -> None:
    """Raise ConfigError if a second run would find in the source what the first has written."""
    if out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{out}: is the source itself or lies in it; choose another --out")


def open_journal(out: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Records of earlier runs by name; a new journal is begun if there is none. Raises ConfigError."""
    path = out / JOURNAL_NAME
    if not path.exists():
        if (out / INDEX_NAME).exists():
            raise OutputError(f"{out}: holds a {INDEX_NAME} that no conversion has left; choose another --out")
        write_atomically(path, lambda partial: partial.write_text(json.dumps(settings) + "\n", encoding="utf-8"))
        return {}
    text = path.read_text(encoding="utf-8")
    *lines, cut_off = text.split("\n")
    if cut_off:  # the last run was killed as it wrote
        write_atomically(path, lambda partial: partial.write_text("\n".join([*lines, ""]), encoding="utf-8"))
    try:
        found, *records = [json.loads(line) for line in lines]
        wrong = [f"{k} {found.get(k)!r} (not {v!r})" for k, v in settings.items() if found.get(k) != v]
        known = {record["name"]: record for record in records}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path}: not the journal of a conversion; choose another --out") from None
    if wrong:
        raise ConfigError(f"{out}: holds a conversion of other settings: {', '.join(wrong)}; choose another --out")
    return known


def _key(item: Item, root: Path) -> list[Any]:
    """What the written image depends on: it is written anew if any of it changes."""
    try:
        stat = (root / item.source).stat()
        version = [stat.st_size, stat.st_mtime_ns]
    except OSError:
        version = []
    box = list(astuple(item.box)) if isinstance(item.box, CropBox) else item.box
    return [item.source, version, box, list(item.size_px or ()), item.label is not None]


def _require_same_source(out: Path, done: dict[str, dict[str, Any]], keys: dict[str, list[Any]]) -> None:
    """Raise ConfigError if no image of earlier runs is in the source: the index would leave all of them out."""
    now = {(file, *version) for file, version, *_ in keys.values()}
    earlier = {(file, *version) for file, version, *_ in (record["key"] for record in done.values())}
    if now and earlier and now.isdisjoint(earlier):
        raise ConfigError(f"{out}: holds images of another source; choose another --out (--data takes several folders)")


def _is_done(record: dict[str, Any] | None, key: list[Any], target: Path) -> bool:
    return record is not None and record["key"] == key and ("reason" in record or target.is_file())


def _convert_all(
    plan: Plan, items: list[Item], out: Path, side: int | None, workers: int, show_progress: bool
) -> Iterator[tuple[Item, dict[str, Any]]]:
    from rich.console import Console
    from rich.progress import track

    def convert(item: Item) -> tuple[Item, dict[str, Any]]:
        try:
            return item, {"side": convert_image(item, plan.root, out, side, plan.margin or 1.0)}
        except Unusable as error:
            (out / item.name).unlink(missing_ok=True)
            return item, {"reason": error.reason, "detail": error.detail}

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers are the parallelism
    with ThreadPoolExecutor(workers) as pool:
        try:
            console = Console(stderr=True)
            results = pool.map(convert, items)
            yield from track(results, "converting", len(items), console=console, disable=not show_progress)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(threads)


def _finish(plan: Plan, out: Path, done: dict[str, dict[str, Any]]) -> Report:
    """Write report and index of all that is done."""
    sides = Counter(done[item.name]["side"] for item in plan.items if "side" in done[item.name])
    side = max(sides, key=lambda value: (sides[value], value), default=0)
    kept, dropped = [], list(plan.dropped)
    for item in plan.items:
        record = done[item.name]
        if record.get("side") == side:
            kept.append(item)
        elif "side" in record:
            detail = f"{record['side']} px, most are {side} px; scale all with --size"
            dropped.append(Dropped(item.source, "another size than most", detail))
        else:
            dropped.append(Dropped(item.source, record["reason"], record["detail"]))
    kept.sort(key=lambda item: item.name)
    subjects = [item.subject for item in kept]
    with_camera = sum(item.label is not None for item in kept)
    report = Report(plan.kind, len(kept), len(set(subjects)), with_camera, side, tuple(dropped))
    text = json.dumps(report.to_json(), indent=1)
    write_atomically(out / REPORT_NAME, lambda partial: partial.write_text(text, encoding="utf-8"))
    if not kept:
        why = "; ".join(report.lines()[1:]) or f"there is none; {EXPECTED}"
        raise ConfigError(f"{plan.root}: no image is left; {why}")
    labels = torch.tensor([item.label or (math.nan,) * 25 for item in kept], dtype=torch.float64)
    meta = {"converted_from": plan.kind} | ({} if plan.margin is None else {"margin": plan.margin})
    write_index(out, [item.name for item in kept], labels, subjects, meta)
    return report
