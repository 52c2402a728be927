"""Command line of a training stage: options by tyro, user errors as one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from nvb_core.cli import interruptible
from nvb_core.errors import NVBError

from .launch import lost_processes
from .presets import with_preset


def run_command(options_type: type[Any], train: Callable[[Any], Any], name: str) -> int:
    """Parse sys.argv into `options_type`, train, and return the exit code (2 for a user's error or Ctrl-C)."""
    import tyro

    try:
        with interruptible(), lost_processes():
            train(tyro.cli(with_preset(options_type, sys.argv[1:]), prog=f"accelerate launch -m {name}"))
    except NVBError as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run the same command to go on", file=sys.stderr)
        return 2
    return 0
