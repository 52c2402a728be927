"""`nvb-face eval`: measure a model on synthetic heads it has never seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nvb_core.checkpoint import DEFAULT_WEIGHTS
from nvb_core.cli import PROG, plain_console
from nvb_core.cli.worker import DeviceName, DtypeName, join_launch
from nvb_core.errors import ConfigError
from nvb_core.fit import FIT_STEPS
from nvb_core.staging import writing

from .benchmark import Benchmark
from .extra import MetricOptions
from .methods import TRUTH, Method
from .selection import HeadSelection, require_count

if TYPE_CHECKING:
    from .plan import Plan

EXPORT = "export-inputs"


@dataclass(frozen=True)
class Options(MetricOptions, HeadSelection):
    """Measure a model on synthetic heads it has never seen, or on pictures of your own (--data).

    Writes report.md, report.json, yaw.png and sheet.png into the folder --out; of several --level, into a folder each
    below it, and what compares them into --out. Heads that are rendered and identities that are
    measured are kept there: an interrupted evaluation goes on where it stopped. `accelerate launch -m nvb_core.cli
    eval` shares the heads out over processes.
    """

    weights: Path = DEFAULT_WEIGHTS
    """Model: a .safetensors checkpoint (default: the built-in one)."""
    base: Path | None = None
    """The Stable Diffusion weights that the model was trained on top of, if it is stored as a difference to them."""
    steps: int = 0
    """Denoising steps, 1 to 1000; 0 takes as many as the model is best with (the built-in one 2)."""
    fit_steps: int = FIT_STEPS
    """Gradient steps that fit each face's 3D grid to its photo first, 0 to 1000; 0 takes it as the model makes it."""
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
    """Measure nothing, but compare two evaluations: folders that hold a level's report, or FOLDER:NAME for a method in
    one. Writes comparison.md and comparison.json."""
    out: Path = Path("out/eval")
    """Folder of the report and of each identity's results."""
    device: DeviceName = "auto"
    """Where the model computes; auto takes a GPU if there is one."""
    dtype: DtypeName = "auto"
    """Number format of the networks; auto is fp32 on the CPU, else bf16 or fp16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("batch", self.batch, 1024)
        self._require_names()

    def _require_names(self) -> None:
        """Raise ConfigError unless each line of tables, plots and sheets has a name of its own."""
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise ConfigError(f"--method: two methods have one name among {', '.join(names)}")
        for name, holder in ((TRUTH, "the true views'"), (self.weights.name, "the model's")):
            if name in names:
                raise ConfigError(f"--method: the name {name} is {holder} in tables and pictures; give another one")

    @property
    def methods(self) -> list[Method]:
        """The other systems."""
        return [Method.parse(text) for text in self.method]


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face eval`; returns 0 whatever the figures. Raises NVBError.

    `nvb-face eval export-inputs` is `nvb-face eval-inputs`.
    """
    if argv and argv[0] == EXPORT:
        from .inputs import main as export_inputs

        return export_inputs(argv[1:])
    options = tyro.cli(Options, args=list(argv), prog=f"{PROG} eval")
    if options.compare is None:
        run(options)
    else:
        run_comparison(*options.compare, options.out)
    return 0


def run_comparison(a: str, b: str, out: Path) -> None:
    """Compare two evaluations."""
    from .compare import Side, compare, to_table, write_comparison

    comparison = compare(Side.read(a), Side.read(b))
    write_comparison(comparison, out)
    console = plain_console()
    console.print(to_table(comparison))
    console.print(f"wrote {out / 'comparison.md'} and comparison.json", soft_wrap=True)


def run(options: Options) -> None:
    """Render, measure, report; under a launch each process measures its share of the heads."""
    from ..launch import lost_processes
    from .plan import Plan

    with lost_processes():
        worker = join_launch(options.device)
        with worker.first_alone():
            plan = Plan.make(options, worker.device)
        plan.check_methods()  # found out now, not after an hour's work
        with writing(options.out):
            options.out.mkdir(parents=True, exist_ok=True)
        if worker.index == 0:
            plan.render()
            plan.check_published()
        worker.barrier()
        for level in options.levels:
            plan.measure(level, worker)
            plan.measure_methods(level, worker)
        worker.wait_for_all()
    if worker.index == 0:
        _report(plan)


def _report(plan: Plan) -> None:
    """Write the reports of all levels."""
    from .levels import write_levels
    from .report import to_table, write_report

    options, console = plan.options, plain_console()
    reports = {level: plan.report(level) for level in options.levels}
    for level, report in reports.items():
        folder = options.folder(level, options.out)
        write_report(report, folder, plan.strips(level), plan.side_by_side(level) if options.methods else None)
        console.print(to_table(report))
        console.print(f"wrote {folder / 'report.md'}, report.json and pictures", soft_wrap=True)
    if len(reports) > 1:
        write_levels(reports, options.out)
        message = f"wrote {options.out / 'report.md'}, report.json and plots of all levels"
        console.print(message, soft_wrap=True)
    if plan.published:
        console.print(f"heads-v1: {plan.published}", soft_wrap=True)


def render_heads(benchmark: Benchmark, seeds: Sequence[int], workers: int) -> float:
    """Render those heads that are missing; returns the seconds it took, 0 if all lay ready."""
    start, missing = time.perf_counter(), benchmark.missing(seeds)
    with progress_bar("rendering heads", len(seeds), len(seeds) - len(missing)) as advance:
        for _ in benchmark.render(seeds, workers):
            advance(1)
    return time.perf_counter() - start if missing else 0.0


@contextmanager
def progress_bar(label: str, total: int, done: int, visible: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, and the function that moves it on; nothing if that isn't a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal)) as progress:
        task = progress.add_task(label, total=total, completed=done)
        yield lambda count: progress.update(task, advance=count)
