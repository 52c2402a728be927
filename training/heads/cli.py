"""`nvb-face heads`: render synthetic heads into a folder that training reads."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nvb_core.errors import ConfigError
from nvb_core.staging import write_atomically

if TYPE_CHECKING:
    from .dataset import HeadSet


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    """Synthetic multi-view heads with exact cameras.

    The same seed gives the same pixels. A run that was interrupted goes on where it stopped; more identities go into
    the same folder with a larger --count or another --first-seed.
    """

    out: Path = Path("data/heads")
    """Folder to write."""
    count: int = 1000
    """Identities."""
    views: int = 8
    """Images of each identity, 1..100."""
    size: int = 128
    """Pixels of the canonical view, 16..2048."""
    samples: int = 4
    """Rays a pixel: 1, 4, 9 or 16."""
    margin: float = 1.0
    """Show this many times the canonical view (1..2) at the same pixel scale, so that training can jitter crops."""
    wild: float = 0.0
    """Share of heads, 0..1, that nobody has: bent, lopsided and painted, the same from every side; so that networks
    learn to draw what a photo shows, and not the next best synthetic head."""
    first_seed: int = 0
    """Seed of the first identity."""
    allow_held_out_seeds: bool = False
    """Also render heads from seed 1000000 on, which are for measuring: a model that has been trained on them measures
    better than it is."""
    workers: int = field(default_factory=cores)
    """Processes; by default one a core."""
    sheet: Path | None = None
    """Also write a contact sheet (PNG) of the first identities."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to render."""
    bake: bool = False
    """Only bake the head basis anew into the cache."""


def main(argv: list[str]) -> int:
    """Run with command-line arguments. Raises NVBError."""
    import tyro

    options = tyro.cli(Options, args=argv, prog="nvb-face heads")
    if options.bake:
        _bake()
    else:
        _render(options)
    return 0


def _bake() -> None:
    from .bake import bake_basis
    from .basis import basis_path

    bake_basis(basis_path())
    print(f"wrote {basis_path()}")


def _render(options: Options) -> None:
    from .dataset import HELD_OUT_SEED, HeadSet

    if not 1 <= options.workers <= 256:
        raise ConfigError(f"workers is {options.workers}; expected 1..256")
    heads = HeadSet(
        options.first_seed,
        options.count,
        options.views,
        options.size,
        options.samples,
        options.margin,
        options.wild,
    )
    if heads.seeds[-1] >= HELD_OUT_SEED and not options.allow_held_out_seeds:
        raise ConfigError(
            f"seeds {heads.seeds[0]} to {heads.seeds[-1]}: heads from {HELD_OUT_SEED} on are for measuring; use smaller"
            " seeds, or --allow-held-out-seeds"
        )
    fresh = _render_with_progress(options, heads)
    print(f"wrote {options.out}: {heads.count} identities, {fresh} of them now")
    if options.sheet:
        _write_sheet(options.out, options.sheet, heads)


def _render_with_progress(options: Options, heads: HeadSet) -> int:
    """-> how many identities were rendered now."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .dataset import pending, render_set

    done = heads.count - len(pending(options.out, heads))
    bar = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
    start, fresh = time.monotonic(), 0
    with Progress(TextColumn("identities"), *bar) as progress:
        task = progress.add_task("", total=heads.count, completed=done, rate="")
        for _ in render_set(options.out, heads, options.workers, options.device):
            fresh += 1
            rate = fresh * heads.views / (time.monotonic() - start)
            progress.update(task, advance=1, rate=f"{rate:.1f} images/s")
    return fresh


def _write_sheet(folder: Path, sheet: Path, heads: HeadSet) -> None:
    from .dataset import contact_sheet

    write_atomically(sheet, lambda partial: contact_sheet(folder, heads).save(partial, format="PNG"))
    print(f"wrote {sheet}")
