"""Write the benchmark's inputs and cameras for other systems, whose pictures `nvb-face eval --method` then scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from nvb_core.cli import PROG, plain_console
from nvb_core.errors import ConfigError
from nvb_core.images import to_pil
from nvb_core.staging import staged_folder, writing

from .benchmark import Benchmark, BenchmarkFace, picture_names
from .face_folder import FaceBenchmark, FolderBenchmark, target_cameras
from .restoration import PairFolder
from .selection import HeadSelection, Level
from .source import open_benchmark

MARKER, LABELS = "inputs.json", "dataset.json"
FORMAT = "nvb-face-inputs"


@dataclass(frozen=True)
class Options(HeadSelection):
    """Write the benchmark's inputs and cameras for other systems.

    Of each head a folder with the degraded input.png, and in cameras.json the camera of every picture that
    `nvb-face eval --method` asks for, by name; the same as EG3D labels of all heads in dataset.json. How to go on:
    benchmarks/METHODS.md. True pictures are not among them.
    """

    size: int = 128
    """Side of the pictures in pixels, as the model that they are compared with has it; 16 to 2048."""
    out: Path = Path("out/eval-inputs")
    """Folder to write."""
    benchmark: Path = Path("out/eval")
    """Folder to keep the rendered heads in, true pictures included; by default that of nvb-face eval."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 16 <= self.size <= 2048:
            raise ConfigError(f"--size is {self.size}, must be in 16–2048")


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face eval-inputs`; returns 0. Raises NVBError."""
    from .cli import render_heads

    options = tyro.cli(Options, args=list(argv), prog=f"{PROG} eval-inputs")
    benchmark, seeds = open_benchmark(options, options.size, options.benchmark)
    if isinstance(benchmark, PairFolder):
        raise ConfigError(f"--data {options.data}: give systems its lq/ as it is, there are no cameras to write")
    folders = {level: options.folder(level, options.out) for level in options.levels}
    for folder in folders.values():
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    if isinstance(benchmark, Benchmark):
        render_heads(benchmark, seeds, options.workers)
    for level, folder in folders.items():
        write_inputs(benchmark, seeds, level, folder)
    message = f"wrote {len(seeds)} heads into {options.out}, see benchmarks/METHODS.md"
    plain_console().print(message, soft_wrap=True)
    return 0


def write_inputs(benchmark: FaceBenchmark, seeds: Sequence[int], level: Level, out: Path) -> None:
    """Write all files of a level; the folder then holds them, or what it held before.

    Raises OccupiedError or OutputError.
    """
    earlier = read_marker(out)
    replaced = sorted({*seeds, *(earlier["seeds"] if earlier else ())})
    entries = [LABELS, *(f"{seed:08d}" for seed in replaced)]
    with staged_folder(out, MARKER, entries, lambda folder: read_marker(folder) is not None) as stage:
        labels: list[list[Any]] = []
        for seed in seeds:
            face = benchmark.load(seed)
            write_face(face, level, stage / f"{seed:08d}")
            labels += [[f"{seed:08d}/{name}", label] for name, label in _labels(face)]
        _write_json(stage / LABELS, {"labels": labels})
        contents: dict[str, Any] = {
            "format": FORMAT,
            "benchmark": benchmark.key,
            "level": level,
            "size": benchmark.settings.image_size,
            "seeds": list(seeds),
            "pictures": picture_names(max(len(target_cameras(benchmark, seed)) for seed in seeds)),
        }
        if isinstance(benchmark, FolderBenchmark):
            contents["names"] = {f"{seed:08d}": benchmark.names[seed] for seed in seeds}
        _write_json(stage / MARKER, contents)


def write_face(face: BenchmarkFace, level: Level, folder: Path) -> None:
    """input.png and cameras.json of one head."""
    from .measure import degrade_input

    folder.mkdir()
    to_pil(degrade_input(face, level)).save(folder / "input.png", format="PNG")
    names = picture_names(len(face.targets))
    _write_json(folder / "cameras.json", face.cameras.all.to_json() | {"images": names, "labels": _labels(face)})


def read_marker(folder: Path) -> dict[str, Any] | None:
    """inputs.json of a folder that this command wrote, else None."""
    try:
        contents = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return contents if isinstance(contents, dict) and contents.get("format") == FORMAT else None


def _labels(face: BenchmarkFace) -> list[list[Any]]:
    """Names and EG3D labels (25 numbers) of all pictures."""
    labels = face.cameras.all.to_eg3d().tolist()
    return [[name, label] for name, label in zip(picture_names(len(face.targets)), labels, strict=True)]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
