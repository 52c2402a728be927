"""Turn face photos into sharp, mutually consistent views from any camera."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import OmitArgPrefixes, Positional

from ..checkpoint import DEFAULT_WEIGHTS, file_sha256, load_model, read_metadata
from ..errors import CheckpointError, ConfigError, NVBError, OutputError
from ..fit import FIT_STEPS
from ..provenance import GRID_KEY, PNG_KEY
from ..sampling import SamplingOptions
from . import FAILURE, PROG, report_error
from .faces import FaceOptions, plan_faces
from .jobs import Job, plan_jobs
from .renderer import Renderer, RenderPlan
from .views import CameraOptions, plan_views
from .worker import DeviceName, DtypeName, choose_dtype, join_launch


@dataclass(frozen=True)
class SamplerOptions:
    """How views are generated."""

    steps: int = 0
    """Denoising steps, 1 to 1000; 0 takes as many as the model is best with (the built-in one 2)."""
    fit_steps: int = FIT_STEPS
    """Gradient steps that fit the face's 3D grid to its photo first, 0 to 1000; 0 takes it as the model makes it."""
    turntable_steps: int = 10
    """Steps for the video's frames, at most as many as --steps."""
    eta: float = 0.0
    """Fresh noise per step, 0 (none) to 1."""
    seed: int = 0
    """Start of the random numbers, from 0 up; the same seed gives the same views."""
    independent_noise: bool = False
    """Start every view from noise of its own; by default all views of a face share theirs, which steadies them."""
    chunk: int = 0
    """Views computed at once; 0 chooses. Smaller needs less memory; the views stay the same."""


@dataclass(frozen=True)
class Options:
    """Turn face photos into sharp, mutually consistent views from any camera.

    Writes views/*.png, sheet.png, turntable.mp4 and cameras.json into the folder --out; with several photos, into one
    folder per photo in it, and with --face all, into one per face in that. What an earlier run has finished is skipped.
    """

    photos: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="PHOTO ...")] = ()
    """Photos: files, folders, or patterns such as "photos/*.jpg"; of folders and patterns without the views and sheets
    of earlier runs."""
    out: Path = Path("out")
    """Folder of the results."""
    weights: Path = DEFAULT_WEIGHTS
    """Model: a .safetensors checkpoint (default: the built-in one)."""
    base: Path | None = None
    """The Stable Diffusion weights that the model was trained on top of, if it is stored as a difference to them: a
    .safetensors file or a diffusers folder."""
    overwrite: bool = False
    """Render again what is already finished, and replace other photos' results."""
    watermark: bool = True
    """Whether to put a small "AI" mark in a corner; the files' metadata says so in any case."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    dtype: DtypeName = "auto"
    """Number format of the networks; auto is fp32 on the CPU, else bf16 or fp16."""
    camera: OmitArgPrefixes[CameraOptions] = field(default_factory=CameraOptions)
    face: OmitArgPrefixes[FaceOptions] = field(default_factory=FaceOptions)
    sampler: OmitArgPrefixes[SamplerOptions] = field(default_factory=SamplerOptions)


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face render`; returns 0, or 2 if a photo failed. Raises NVBError for what concerns all photos."""
    options = tyro.cli(Options, args=list(argv), prog=f"{PROG} render")
    plan = make_plan(options)
    jobs = plan_jobs(options.photos, options.out, plan.faces.face == "all", results=(PNG_KEY, GRID_KEY))
    worker = join_launch(options.device)
    dtype = choose_dtype(options.dtype, worker.device)
    model = functools.cache(lambda: load_model(options.weights, str(worker.device), dtype, base=options.base))
    share = jobs[worker.index :: worker.count]
    with progress_bars(visible=worker.index == 0) as progress:
        failed = render_all(Renderer(plan, model, progress, options.overwrite), share)
    if failed and len(jobs) > 1:
        names = ", ".join(str(job.photo) for job in failed)
        print(f"{PROG}: {len(failed)} of {len(share)} photos failed: {names}", file=sys.stderr)
    worker.wait_for_all()
    return FAILURE if failed else 0


def make_plan(options: Options) -> RenderPlan:
    """Check all options that need no photo. Raises NVBError."""
    if options.sampler.turntable_steps < 1:
        raise ConfigError(f"--turntable-steps {options.sampler.turntable_steps} must be at least 1")
    config = read_metadata(options.weights)["config_object"]
    return RenderPlan(
        views=plan_views(options.camera),
        faces=plan_faces(options.face),
        sampling=SamplingOptions(
            steps=options.sampler.steps or config.sampling_steps,
            eta=options.sampler.eta,
            seed=options.sampler.seed,
            fit_steps=options.sampler.fit_steps,
            shared_noise=not options.sampler.independent_noise,
            views_per_chunk=options.sampler.chunk,
        ),
        turntable_steps=options.sampler.turntable_steps,
        watermark=options.watermark,
        dtype=options.dtype,
        model=config.name,
        weights_sha256=file_sha256(options.weights),
        version=metadata.version("nvb-face"),
    )


def render_all(renderer: Renderer, jobs: Sequence[Job]) -> list[Job]:
    """Render each photo; returns those that failed, each reported. Raises errors that the next photo would meet too."""
    task = renderer.progress.add_task("photos", total=len(jobs), visible=len(jobs) > 1)
    failed = []
    for job in jobs:
        try:
            renderer.render_photo(job)
        except (CheckpointError, OutputError):
            raise
        except NVBError as error:
            where = "" if str(job.photo) in str(error) else f"{job.photo}: "
            report_error(type(error)(f"{where}{error}"))
            failed.append(job)
        renderer.progress.advance(task)
    return failed


def progress_bars(visible: bool) -> Progress:
    """Bars on stderr; none if that isn't a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal))
