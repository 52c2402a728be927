"""How fast training batches come from disk: images of 512 pixels, with 1, 2, ... workers, degradation off and on.

python -m benchmarks.data_loading

Fewer cores busy than workers means that something else holds them up: other processes, the disk, or Python's lock.
What forked workers (--workers-are processes) keep busy isn't told.
The pictures are crops of examples/astronaut.jpg, as PNG. A GPU starves if it takes more images a second than this.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from nvb_core.cameras import Cameras
from nvb_core.degradation import PRESETS
from training.batches import batch_generator, sample_restoration_batch, sample_view_batch
from training.data import FaceFolder, write_index
from training.data.images import check_all, decode
from training.prefetch import WorkerKind, prefetch

PHOTO = Path(__file__).parent.parent / "examples" / "astronaut.jpg"
VIEWS = 8
BATCH = 4


def make_folder(folder: Path, subjects: int, size: int) -> None:
    """Subjects of VIEWS random crops of the photo each, with random cameras."""
    rng = np.random.default_rng(0)
    photo = Image.open(PHOTO).convert("RGB")
    paths = [f"{s:04d}/{v:02d}.png" for s in range(subjects) for v in range(VIEWS)]
    for path in paths:
        side = rng.uniform(0.5, 1) * min(photo.size)
        x, y = (rng.uniform(0, length - side) for length in photo.size)
        crop = photo.resize((size, size), Image.Resampling.BICUBIC, (x, y, x + side, y + side))
        (folder / path).parent.mkdir(exist_ok=True)
        crop.save(folder / path)
    cameras = Cameras.from_angles(rng.uniform(-40, 40, len(paths)), rng.uniform(-15, 15, len(paths)))
    write_index(folder, paths, cameras.to_eg3d(), [path[:4] for path in paths], {})


def images_per_second(
    make_batch: Callable[[int], Any], images: int, workers: int, batches: int, kind: WorkerKind
) -> tuple[float, float]:
    """Images a second of the first batches of `make_batch`, which makes `images` of them, and cores kept busy."""
    started, cpu = time.perf_counter(), time.process_time()
    with closing(prefetch(make_batch, 0, workers=workers, kind=kind)) as made:
        for _ in itertools.islice(made, batches):
            pass
        seconds = time.perf_counter() - started
        busy = (time.process_time() - cpu) / seconds if kind == "threads" else math.nan
        return batches * images / seconds, busy


def batch_makers(folder: FaceFolder) -> dict[str, tuple[Callable[[int], Any], int]]:
    """What is measured: a function of the step, and how many images it reads."""

    def restoration(level: str) -> Callable[[int], Any]:
        return lambda i: sample_restoration_batch(folder, BATCH, batch_generator(0, i, 0), ranges=PRESETS[level])

    def views(level: str) -> Callable[[int], Any]:
        return lambda i: sample_view_batch(folder, 1, VIEWS - 1, batch_generator(0, i, 0), ranges=PRESETS[level])

    files = folder.sources[0].files
    return {
        "decoding alone": (lambda i: [decode(files[(BATCH * i + j) % len(files)]) for j in range(BATCH)], BATCH),
        "step 1, no degradation": (restoration("level0"), BATCH),
        "step 1": (restoration("train"), BATCH),
        "step 2, no degradation": (views("level0"), VIEWS),
        "step 2": (views("train"), VIEWS),
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--images", type=int, default=240, help="per measurement; the same ones for each")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers-are", choices=get_args(WorkerKind), default="threads")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        make_folder(Path(name), arguments.subjects, arguments.size)
        folder = FaceFolder.load(Path(name), arguments.size, in_memory="no")
        files = folder.sources[0].files
        started = time.perf_counter()
        check_all(files, arguments.size, show_progress=False)
        print(f"checking headers at the start: {1e6 * (time.perf_counter() - started) / len(files):.0f} µs an image")
        print(
            f"{'images/s at ' + str(arguments.size) + '²':<28}"
            + "".join(f"{w:>7} wk (cores)" for w in arguments.workers)
        )
        for title, (make_batch, images) in batch_makers(folder).items():
            batches, kind = arguments.images // images, arguments.workers_are
            rates = [images_per_second(make_batch, images, w, batches, kind) for w in arguments.workers]
            print(f"{title:<28}" + "".join(f"{rate:>10.1f} ({busy:.2f})" for rate, busy in rates), flush=True)


if __name__ == "__main__":
    main()
