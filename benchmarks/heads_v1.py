"""Write training/evaluation/heads_v1.json anew, from heads that `nvb-face eval --set heads-v1` has rendered or renders.

python -m benchmarks.heads_v1 --benchmark out/eval

To be run where the renderer or the degradation was changed on purpose; the set then needs a new name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.progress import track

from nvb_core.staging import write_atomically
from training.evaluation.benchmark import Benchmark
from training.evaluation.cli import render_heads
from training.evaluation.published import MANIFEST, PUBLISHED_SIZE_PX, manifest_text, print_of
from training.evaluation.selection import HeadSelection


@dataclass(frozen=True)
class Options:
    """Where the heads are, and where to write."""

    benchmark: Path = Path("out/eval")
    """Folder of rendered heads."""
    out: Path = MANIFEST
    """File to write."""
    identities: int = 300
    """How many."""
    workers: int = 2
    """Processes that render what is missing."""


def main(options: Options) -> None:
    """Render what is missing, write."""
    selection = HeadSelection(set="heads-v1", identities=options.identities)
    benchmark = Benchmark(options.benchmark, selection.settings(PUBLISHED_SIZE_PX))
    render_heads(benchmark, selection.seeds, options.workers)
    prints = {seed: print_of(benchmark.load(seed)) for seed in track(selection.seeds, "heads")}
    text = manifest_text(prints)
    write_atomically(options.out, lambda partial: partial.write_text(text, encoding="utf-8"))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main(tyro.cli(Options))
