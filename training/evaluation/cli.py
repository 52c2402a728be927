"""`nvb-face eval`: measure a model on synthetic heads it has never seen."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nvb_core.checkpoint import DEFAULT_WEIGHTS, file_sha256, load_model, read_metadata
from nvb_core.cli import PROG
from nvb_core.cli.worker import DeviceName, DtypeName, choose_dtype, join_launch
from nvb_core.errors import ConfigError
from nvb_core.sampling import SamplingOptions
from nvb_core.staging import writing

from .benchmark import Benchmark, BenchmarkSettings
from .extra import ExtraMetrics, MetricOptions
from .methods import Method
from .scores import IdentityScores
from .selection import HeadSelection, require_count


@dataclass(frozen=True)
class Options(MetricOptions, HeadSelection):
    """Measure a model on synthetic heads it has never seen.

    Writes report.md, report.json and sheet.png into the folder --out. Heads that are rendered and identities that are
    measured are kept there: an interrupted evaluation goes on where it stopped.
    """

    weights: Path = DEFAULT_WEIGHTS
    """Model: a .safetensors checkpoint (default: the built-in one)."""
    base: Path | None = None
    """The Stable Diffusion weights that the model was trained on top of, if it is stored as a difference to them."""
    steps: int = 50
    """Denoising steps, 1 to 1000."""
    seed: int = 0
    """Start of the model's random numbers."""
    true_camera: bool = False
    """Tell the model where the input was taken from instead of letting it predict."""
    batch: int = 4
    """Heads that go through the model at once; the figures don't depend on it."""
    method: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=FOLDER")] = ()
    """Another system's pictures of the same heads, to stand beside the model; may be given several times.
    nvb-face eval-inputs writes what such a system needs."""
    compare: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="A B")] = None
    """Measure nothing, but compare two evaluations: folders that hold a report, or FOLDER:NAME for a method in one.
    Writes comparison.md and comparison.json."""
    out: Path = Path("out/eval")
    """Folder of the report and of each identity's results."""
    device: DeviceName = "auto"
    """Where the model computes; auto takes a GPU if there is one."""
    dtype: DtypeName = "auto"
    """Number format of the networks; auto is fp32 on the CPU, else bf16 or fp16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("batch", self.batch, 1024)
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise ConfigError(f"--method: two methods have one name among {', '.join(names)}")

    @property
    def methods(self) -> list[Method]:
        """The other systems."""
        return [Method.parse(text) for text in self.method]


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face eval`; returns 0 whatever the figures. Raises NVBError."""
    options = tyro.cli(Options, args=list(argv), prog=f"{PROG} eval")
    if options.compare is None:
        run(options)
    else:
        run_comparison(*options.compare, options.out)
    return 0


def run_comparison(a: str, b: str, out: Path) -> None:
    """Compare two evaluations."""
    from rich.console import Console

    from .compare import Side, compare, to_table, write_comparison

    comparison = compare(Side.read(a), Side.read(b))
    write_comparison(comparison, out)
    console = Console()
    console.print(to_table(comparison))
    console.print(f"wrote {out / 'comparison.md'} and comparison.json", highlight=False, soft_wrap=True)


def run(options: Options) -> None:
    """Render, measure, report."""
    from rich.console import Console

    from ..export import git_revision
    from .measure import MeasureSettings, machine_name
    from .report import Report, to_table, write_report
    from .run import Evaluation

    metadata = read_metadata(options.weights)
    device = join_launch(options.device).device
    dtype = choose_dtype(options.dtype, device)
    config = metadata["config_object"]
    benchmark = Benchmark(options.benchmark or options.out, BenchmarkSettings(options.views, config.image_size))
    settings = MeasureSettings(options.level, SamplingOptions(options.steps, seed=options.seed), options.true_camera)
    sha256 = file_sha256(options.weights)
    extra = ExtraMetrics.find(options, device)
    evaluation = Evaluation(benchmark, settings, sha256, str(dtype).removeprefix("torch."), options.out, extra)
    seeds, todo = options.seeds, evaluation.missing(options.seeds)
    needed = seeds if options.methods else todo
    for method in options.methods:
        method.check(seeds, benchmark.settings)
    with writing(options.out):  # found out now, not after an hour's work
        options.out.mkdir(parents=True, exist_ok=True)
    render_seconds = render_heads(benchmark, needed, options.workers)
    model = functools.cache(lambda: load_model(options.weights, str(device), dtype, base=options.base))
    with progress_bar("measuring", len(seeds), len(seeds) - len(todo)) as advance:
        for count in evaluation.measure(model, seeds, options.batch, machine_name(device)):
            advance(count)
    report = Report(
        weights={"file": options.weights.name, "sha256": sha256, "model": config.name},
        settings=evaluation.described,
        code=git_revision(),
        render_seconds=render_seconds,
        scores=evaluation.scores(seeds),
        methods={method.name: _measure(method, seeds, benchmark, options.level, extra) for method in options.methods},
        remarks=extra.remarks,
        notes=extra.notes,
    )
    write_report(report, options.out, [evaluation.path(seed, ".png") for seed in seeds])
    console = Console()
    console.print(to_table(report))
    console.print(f"wrote {options.out / 'report.md'}, report.json and sheet.png", highlight=False, soft_wrap=True)


def render_heads(benchmark: Benchmark, seeds: Sequence[int], workers: int) -> float:
    """Render those heads that are missing; returns the seconds it took, 0 if all lay ready."""
    start, missing = time.perf_counter(), benchmark.missing(seeds)
    with progress_bar("rendering heads", len(seeds), len(seeds) - len(missing)) as advance:
        for _ in benchmark.render(seeds, workers):
            advance(1)
    return time.perf_counter() - start if missing else 0.0


def _measure(
    method: Method, seeds: Sequence[int], benchmark: Benchmark, level: int, extra: ExtraMetrics
) -> tuple[IdentityScores, ...]:
    scores = []
    with progress_bar(f"measuring {method.name}", len(seeds), 0) as advance:
        for seed in seeds:
            scores.append(method.measure(benchmark.load(seed), benchmark.settings, level, extra))
            advance(1)
    return tuple(scores)


@contextmanager
def progress_bar(label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, and the function that moves it on; nothing if that isn't a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total, completed=done)
        yield lambda count: progress.update(task, advance=count)
