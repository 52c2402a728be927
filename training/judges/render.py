"""Render people for the judges: python -m training.judges.render --out data/judges --count 1200"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from nvb_core.cli import interruptible
from nvb_core.errors import NVBError

from .people import HELD_OUT_SEED, TRAINING_SEED, VIEWS, People, render_people


@dataclass(frozen=True)
class Options:
    """People in several scenes each; the same seed gives the same pictures. An interrupted run goes on."""

    out: Path
    """Folder to write."""
    count: int = 1200
    """People, in three scenes each."""
    views: int = VIEWS
    """Cameras of each scene."""
    held_out: bool = False
    """People to test on instead of to learn from."""
    workers: int = 2
    """Processes."""


def main() -> int:
    """Run; returns the exit code."""
    import tyro
    from rich.progress import track

    try:
        with interruptible():
            options = tyro.cli(Options, prog="python -m training.judges.render")
            people = People(HELD_OUT_SEED if options.held_out else TRAINING_SEED, options.count, options.views)
            for _ in track(render_people(options.out, people, options.workers), "people", total=people.count):
                pass
    except NVBError as error:
        print(f"training.judges.render: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("training.judges.render: interrupted; run the same command to go on", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
