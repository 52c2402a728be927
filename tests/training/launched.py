"""One process of a launch: `python launched.py JOB`, a JSON object of step 1's options."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from nvb_core.errors import NVBError
from training import loop
from training.options import Step1Options
from training.step1 import train


def main(job: str) -> int:
    torch.set_num_threads(1)
    rate, clock = float(os.environ["CLOCK_RATE"]), time.monotonic
    loop.time = SimpleNamespace(monotonic=lambda: rate * clock())  # type: ignore[assignment]
    options = json.loads(job)
    paths = {key: Path(options.pop(key)) for key in ("out", "init", "base", "latent_cache") if options.get(key)}
    try:
        train(Step1Options(data=tuple(map(Path, options.pop("data"))), **paths, **options))
    except NVBError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
