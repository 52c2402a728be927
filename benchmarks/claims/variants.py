"""Step 2 in several variants of one budget, from the same start and on the same batches; and what they score.

```
base -> with_new_views -> step 2 (a variant's options) -> pictures of held-out heads -> scores, one file per head
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from nvb_core.checkpoint import file_sha256, load_model, read_metadata, save_model
from nvb_core.cli.worker import DtypeName, choose_dtype
from nvb_core.config import ModelConfig
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel
from nvb_core.sampling import SamplingOptions
from training.evaluation.benchmark import Benchmark, BenchmarkFace, BenchmarkSettings, digest
from training.evaluation.measure import GeneratedFaces, MeasureSettings, generate, machine_name, score
from training.evaluation.run import scoring_sources
from training.evaluation.scores import IdentityScores, read_scores, write_scores
from training.evaluation.summary import FEWEST
from training.export import MODEL_NAME
from training.heads.dataset import HELD_OUT_SEED
from training.loop import Trainer
from training.options import Step2Options
from training.step2 import Step2Stage

from .base import Shared, is_finished, make_base
from .start import with_new_views, without_time

FACES_AT_ONCE = 4
SMALL_VIEW = {"volume_blocks": 2, "aggregator_blocks": 1}
"""Half of what `mini` has, so that a CPU can train several."""
Level = int
Pictures = Callable[[Sequence[BenchmarkFace], MeasureSettings], GeneratedFaces]
"""What a method makes of some faces."""


@dataclass(frozen=True)
class Experiment(Shared):
    """What each variant may cost, and what it is measured on."""

    step2_steps: int = 600
    """Training steps of each variant, four faces with four views each."""
    denoised_views: int = 2
    """Of those four views, how many the diffusion loss is taken on; with 0 that loss is left out."""
    heads_measured: int = 40
    """Held-out heads."""
    views: int = 8
    """Views of each."""
    sampling_steps: int = 20
    """Denoising steps."""
    seed: int = 0
    """Of training and of the noise that sampling starts from."""
    dtype: DtypeName = "auto"
    """Number format of the networks when they are measured; bf16 is faster where the processor computes in it."""

    def __post_init__(self) -> None:
        if self.heads_measured < FEWEST:
            raise ConfigError(f"heads_measured is {self.heads_measured}, must be at least {FEWEST} for an interval")

    def load(self, path: Path) -> NVBModel:
        """A checkpoint's model, to be measured."""
        device = torch.device("cpu")
        return load_model(path, str(device), choose_dtype(self.dtype, device))

    def settings(self, level: Level) -> MeasureSettings:
        """How models are used."""
        return MeasureSettings(level, SamplingOptions(self.sampling_steps, seed=self.seed), true_camera=False)

    @property
    def seeds(self) -> range:
        """Of the heads to measure on."""
        return range(HELD_OUT_SEED, HELD_OUT_SEED + self.heads_measured)


@dataclass(frozen=True)
class Variant:
    """What differs from the reference."""

    name: str
    view: Mapping[str, int] = field(default_factory=dict)
    """Of nvb_core.config.ViewConfig."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Of training.options.Step2Options."""
    time_aware: bool = True
    """Whether the encoder sees the diffusion time, in steps 1 and 2 and in use."""

    def config(self, base: ModelConfig) -> ModelConfig:
        """Of the model."""
        return replace(base, view=replace(base.view, **{**SMALL_VIEW, **self.view}))


REFERENCE = Variant("reference")


def prepared(model: NVBModel, variant: Variant) -> NVBModel:
    """The model as its variant uses it."""
    return model if variant.time_aware else without_time(model)


def trained(variant: Variant, experiment: Experiment) -> Path:
    """Train a variant, or what is left of it; returns its checkpoint."""
    base = make_base(experiment, variant.time_aware)
    folder = variant_folder(variant, experiment, base)
    start = folder / "start.safetensors"
    if not start.exists():
        model = load_model(base)
        fresh = with_new_views(model, variant.config(model.config), experiment.seed)
        save_model(fresh, start, model.metadata["training"])
    options = Step2Options(
        out=folder,
        data=(experiment.heads,),
        init=start,
        steps=experiment.step2_steps,
        warmup_steps=40,
        decay_fraction=0.7,
        ema_decay=0.995,
        grid_every=0,
        seed=experiment.seed,
        **{"denoised_views": experiment.denoised_views, **variant.training},
    )
    if not is_finished(options, "step2"):
        stage = Step2Stage(options, 0)
        prepared(stage.model, variant)
        Trainer(stage, options).run()
    return folder / MODEL_NAME


def variant_folder(variant: Variant, experiment: Experiment, base: Path) -> Path:
    """Where a variant of one start and one budget is trained."""
    described = {
        "base": file_sha256(base),
        "seed": experiment.seed,
        "view": {**SMALL_VIEW, **variant.view},
        "training": dict(variant.training),
    }
    name = f"{variant.name}-{experiment.step2_steps}-{experiment.denoised_views}-{digest(described, [])}"
    return experiment.folder / "variants" / name


def measured(
    name: str, weights: Sequence[Path], pictures: Pictures, level: Level, experiment: Experiment
) -> list[IdentityScores]:
    """Scores of a method, head by head; those of the same weights and settings that lie ready aren't computed again."""
    size = load_config(weights[0]).image_size
    benchmark = Benchmark(experiment.folder / "heads_measured", BenchmarkSettings(experiment.views, size))
    for _ in benchmark.render(experiment.seeds, experiment.workers):
        pass
    settings = experiment.settings(level)
    key = digest(
        {
            "method": name,
            "weights": [file_sha256(path) for path in weights],
            "benchmark": benchmark.key,
            "steps": experiment.sampling_steps,
            "seed": experiment.seed,
            "dtype": experiment.dtype,
        },
        scoring_code(),
    )
    folder = experiment.folder / "scores" / f"{name}-level{level}-{key}"
    missing = [seed for seed in experiment.seeds if not (folder / f"{seed:08d}.json").is_file()]
    machine = machine_name(torch.device("cpu"))
    batches = [missing[i : i + FACES_AT_ONCE] for i in range(0, len(missing), FACES_AT_ONCE)]
    for batch in track(batches, f"{name}, level {level}", disable=not batches):
        faces = [benchmark.load(seed) for seed in batch]
        for scores in score(faces, pictures(faces, settings), machine):
            write_scores(scores, folder / f"{scores.seed:08d}.json")
    return [read_scores(folder / f"{seed:08d}.json") for seed in experiment.seeds]


def scoring_code() -> list[Path]:
    """Files that scores depend on."""
    return [*scoring_sources(), *Path(__file__).parent.glob("*.py")]


def load_config(path: Path) -> ModelConfig:
    """Of a checkpoint."""
    config: ModelConfig = read_metadata(path)["config_object"]
    return config


def measured_variant(variant: Variant, level: Level, experiment: Experiment) -> list[IdentityScores]:
    """Train if need be, then measure."""
    path = trained(variant, experiment)
    model = prepared(experiment.load(path), variant)
    return measured(variant.name, [path], partial(generate, model), level, experiment)
