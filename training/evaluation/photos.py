"""`nvb-face eval-photos`: what can be measured on real photos, of which no other view is known."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from nvb_core.checkpoint import DEFAULT_WEIGHTS, file_sha256, load_model, read_metadata
from nvb_core.cli import FAILURE, PROG, plain_console, report_error
from nvb_core.cli.faces import FaceOptions, FacePlan, plan_faces
from nvb_core.cli.jobs import Job, plan_jobs
from nvb_core.cli.worker import DeviceName, DtypeName, choose_dtype, join_launch
from nvb_core.errors import CheckpointError, ConfigError, NVBError, OutputError
from nvb_core.fit import FIT_STEPS
from nvb_core.model import NVBModel
from nvb_core.provenance import GRID_KEY, PNG_KEY
from nvb_core.sampling import SamplingOptions
from nvb_core.staging import write_atomically, writing

from .embedding import Embedding, EmbeddingOptions
from .photo_scores import PhotoPictures, PhotoScores, PluggedEmbeddings, draw_photo, score_photo


@dataclass(frozen=True)
class Options:
    """Measure on real photos, of which no other view is known.

    Writes report.md, report.json and sheet.png into the folder --out. Photos that are measured are kept there: an
    interrupted run goes on where it stopped. A photo without a face is reported and left out; of one with several, only
    one face is measured.
    """

    photos: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="PHOTO ...")] = ()
    """Photos: files, folders, or patterns such as "photos/*.jpg"."""
    out: Path = Path("out/eval-photos")
    """Folder of the results."""
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
    device: DeviceName = "auto"
    """Where the model computes; auto takes a GPU if there is one."""
    dtype: DtypeName = "auto"
    """Number format of the networks; auto is fp32 on the CPU, else bf16 or fp16."""
    face: OmitArgPrefixes[FaceOptions] = field(default_factory=FaceOptions)
    identity: OmitArgPrefixes[EmbeddingOptions] = field(default_factory=EmbeddingOptions)

    def __post_init__(self) -> None:
        if self.face.face == "all":
            raise ConfigError("--face all: a photo is measured by one face; give its number")


@dataclass(frozen=True)
class PhotoEvaluation:
    """One model on some photos; results are kept per photo in `folder`."""

    folder: Path
    model: Callable[[], NVBModel]
    faces: FacePlan
    sampling: SamplingOptions
    embedding: Embedding | None

    def measure(self, job: Job) -> PhotoScores:
        """Of one photo, drawn if it hasn't been. Raises NVBError."""
        from nvb_core.images import load_image

        photo = load_image(job.photo)
        path = self.folder / f"{photo.sha256[:16]}.json"
        if not (path.is_file() and path.with_suffix(".png").is_file()):
            pictures = draw_photo(self.model(), photo.pixels, self.faces, self.sampling)
            self._keep(pictures, path.with_suffix(".png"))
            scores = score_photo(photo.path.name, pictures, self.embedding)
            text = json.dumps(asdict(scores), indent=1)
            write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
        kept = json.loads(path.read_text(encoding="utf-8"))
        rows = kept["plugged"] and {key: tuple(row) for key, row in kept["plugged"].items()}
        return PhotoScores(**{**kept, "name": photo.path.name, "plugged": rows and PluggedEmbeddings(**rows)})

    def strip(self, job: Job) -> Path:
        """Pictures of a measured photo."""
        return self.folder / f"{file_sha256(job.photo)[:16]}.png"

    def _keep(self, pictures: PhotoPictures, path: Path) -> None:
        strip = pictures.strip()
        write_atomically(path, functools.partial(strip.save, format="PNG"))


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face eval-photos`; returns 0, or 2 if a photo failed. Raises NVBError for what concerns all photos."""
    from .cli import progress_bar
    from .photo_report import write_photo_report

    options = tyro.cli(Options, args=list(argv), prog=f"{PROG} eval-photos")
    jobs = plan_jobs(options.photos, options.out, always_subfolders=True, results=(PNG_KEY, GRID_KEY))
    with writing(options.out):  # found out now, not after an hour's work
        options.out.mkdir(parents=True, exist_ok=True)
    evaluation, described = make_evaluation(options)
    measured: dict[Path, PhotoScores] = {}
    with progress_bar("measuring photos", len(jobs), 0) as advance:
        for job in jobs:
            try:
                measured[job.photo] = evaluation.measure(job)
            except (CheckpointError, OutputError):
                raise
            except NVBError as error:
                report_error(type(error)(f"{job.photo}: {error}" if str(job.photo) not in str(error) else str(error)))
            advance(1)
    if not measured:
        raise ConfigError(f"none of {len(jobs)} photos could be measured")
    strips = [evaluation.strip(job) for job in jobs if job.photo in measured]
    write_photo_report(list(measured.values()), strips, described, options.out)
    message = f"wrote {options.out / 'report.md'}, report.json and sheet.png of {len(measured)} of {len(jobs)} photos"
    plain_console().print(message, soft_wrap=True)
    return 0 if len(measured) == len(jobs) else FAILURE


def make_evaluation(options: Options) -> tuple[PhotoEvaluation, dict[str, Any]]:
    """Check the options; also returns what the results depend on. Raises NVBError."""
    from nvb_core.cli import faces

    from .benchmark import digest
    from .run import scoring_sources

    device = join_launch(options.device).device
    dtype = choose_dtype(options.dtype, device)
    config = read_metadata(options.weights)["config_object"]
    embedding = options.identity.open()
    sampling = SamplingOptions(options.steps or config.sampling_steps, seed=options.seed, fit_steps=options.fit_steps)
    described = {
        "weights": file_sha256(options.weights),
        "model": config.name,
        "steps": sampling.steps,
        "seed": options.seed,
        "fit_steps": sampling.fit_steps,
        "dtype": str(dtype).removeprefix("torch."),
        **({"embedding": embedding.described} if embedding else {}),
        **{key: value for key, value in asdict(options.face).items() if key != "box" or value is not None},
    }
    folder = options.out / f"photos-{digest(described, [*scoring_sources(), Path(faces.__file__)])}"
    model = functools.cache(lambda: load_model(options.weights, str(device), dtype, base=options.base))
    return PhotoEvaluation(folder, model, plan_faces(options.face), sampling, embedding), described
