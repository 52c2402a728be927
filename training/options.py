"""Options of the training stages: frozen dataclasses from which the command lines are generated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nvb_core.errors import ConfigError

from .data import InMemory, Split
from .prefetch import WorkerKind

Precision = Literal["auto", "no", "bf16", "fp16"]
OptimizerName = Literal["adamw", "muon", "adamw8bit"]
Tracker = Literal["tensorboard", "wandb", "none"]
Sharding = Literal["none", "gradients", "parameters"]
Compiler = Literal["none", "inductor", "cudagraphs", "aot_eager", "eager"]
Step1Preset = Literal["none", "sd21-step1", "sd15-step1"]
Step2Preset = Literal["none", "sd21-step2", "sd15-step2"]
PredictionType = Literal["epsilon", "v_prediction"]
DegradationName = Literal["train", "level0", "level1", "level2"]


@dataclass(frozen=True)
class RunOptions:
    """How long, how fast and where to train; the same for every stage."""

    out: Path
    """Folder of this stage: resume state, log, pictures and the exported model."""
    data: tuple[Path, ...]
    """Face folders with a dataset.json."""
    steps: int
    """Optimiser steps in all; a run that is resumed with more steps goes on."""
    batch_size: int
    """Pictures (faces in step 2) per process and micro-batch."""
    lr: float
    """Peak learning rate."""
    accumulate: int = 1
    """Micro-batches per optimiser step."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises from zero; at most a tenth of the steps of a time budget."""
    decay_fraction: float = 0.4
    """Last part of the steps over which the learning rate falls along a cosine; 1 is a plain cosine after warm-up."""
    optimizer: OptimizerName = "adamw"
    """`muon` steps linear layers along their orthogonalised momentum, all else as `adamw` does; `adamw8bit` keeps
    AdamW's moments in 8 bits (a quarter of the memory; needs the package bitsandbytes and a GPU)."""
    weight_decay: float = 0.01
    """Of either optimiser."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; a longer one is shortened to it."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are the ones exported."""
    precision: Precision = "auto"
    """Autocast; `auto` is bf16 where the processor computes in it, else none. `fp16` (with a loss scale) is for GPUs
    without bf16."""
    half_base: bool = False
    """Store the frozen weights of Stable Diffusion in the precision of autocast, in half the memory."""
    gradient_checkpointing: bool = False
    """Compute the blocks' activations again in the backward pass instead of storing them: less memory, a third slower.
    """
    compile: Compiler = "none"
    """Backend of torch.compile for the networks; `eager` and `aot_eager` are for finding errors."""
    shard: Sharding = "none"
    """Under several processes, who stores what (step 1): `none` is plain DDP; `gradients` shares out gradients,
    moments and averages, as ZeRO-2 does; `parameters` the weights as well, as FSDP and ZeRO-3 do."""
    timeout_minutes: float = 30.0
    """How long a process waits for the others before it gives up."""
    seed: int = 0
    """Start of all random numbers."""
    license: str | None = None
    """Licence to write into the checkpoint; by default that of the one it starts from, else Apache-2.0, or on top of
    Stable Diffusion a reference to the licences of its weights and the training data."""
    data_weights: tuple[float, ...] = ()
    """How often each folder of `data` is drawn from, relative to the others; default: by its number of images, in
    step 2 by that of the subjects that it draws."""
    tone_probability: float = 0.0
    """How often a face is shown in other tones (black and white, sepia, faded), the photo and its views alike. Chosen:
    the paper has no such thing, but synthetic heads are all in true colours, and old photos aren't."""
    split: Split = "all"
    """Which subjects to train on; where a folder names no splits, a hash of their names parts them 90 : 5 : 5."""
    in_memory: InMemory = "auto"
    """Whether to hold all images decoded in memory; `auto` does if they fit in 4 GiB."""
    workers: int = 1
    """How many make batches, which don't depend on their number."""
    workers_are: WorkerKind = "threads"
    """`processes` are for small pictures and a fast GPU, where threads wait for Python's lock on each other."""
    degrade_on: Literal["workers", "device"] = "workers"
    """Who degrades pictures: the `workers` that make batches, on the CPU, or the `device` that trains, a whole batch at
    once; a GPU's pictures are the CPU's up to rounding."""
    save_minutes: float = 5.0
    """Wall-clock minutes between resume states; 0 saves after every step."""
    log_every: int = 20
    """Steps between lines of the log."""
    grid_every: int = 500
    """Steps between pictures; 0 draws none."""
    validate_every: int = 0
    """Steps between measurements at the averaged weights (losses on the same held-out batches each time, PSNR of the
    picture); 0 measures nothing."""
    validation_batches: int = 4
    """Batches per measurement."""
    tracker: Tracker = "tensorboard"
    """Who gets the log besides loss.jsonl: TensorBoard files in `out`, or Weights & Biases if wandb is installed."""
    max_minutes: float = 0.0
    """Stop after this many minutes with state and model saved, to be resumed later; 0 is no limit."""
    budget_minutes: float = 0.0
    """Train for about this many minutes in all, pauses not counted: the speed of the first steps decides how many
    steps there are, instead of `steps`; 0 is no budget."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "validation_batches", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        _require_not_negative(self, "warmup_steps", "grid_every", "validate_every", "weight_decay")
        _require_not_negative(self, "save_minutes", "max_minutes", "budget_minutes")
        if not self.timeout_minutes > 0:
            raise ConfigError(f"timeout_minutes is {self.timeout_minutes}, must be positive")
        if not 0 < self.lr < 1:
            raise ConfigError(f"lr is {self.lr}, must be between 0 and 1")
        if not 0 <= self.decay_fraction <= 1:
            raise ConfigError(f"decay_fraction is {self.decay_fraction}, must be in 0–1")
        if not all(0 <= value < 1 for value in (self.ema_decay, *self.betas)):
            raise ConfigError(f"ema_decay {self.ema_decay} and betas {self.betas} must be at least 0 and below 1")
        if not 0 <= self.tone_probability <= 1:
            raise ConfigError(f"tone_probability is {self.tone_probability}, must be in 0–1")
        if not self.clip_norm > 0:
            raise ConfigError(f"clip_norm is {self.clip_norm}, must be positive")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}, must be in 0–{2**32 - 1}")
        if not self.data:
            raise ConfigError("no data folder given; use --data FOLDER")

        if self.shard != "none" and not self.shardable:
            raise ConfigError(f"shard {self.shard} is for step 1; here the part that trains is small, leave it out")

    @property
    def shardable(self) -> bool:
        """Whether weights may be shared out over processes."""
        return True

    @property
    def pictures_per_batch(self) -> int:
        """Pictures that a micro-batch teaches."""
        return self.batch_size


def _require_not_negative(options: RunOptions, *names: str) -> None:
    for name in names:
        if not getattr(options, name) >= 0:
            raise ConfigError(f"{name} is {getattr(options, name)}, must not be negative")


@dataclass(frozen=True)
class VAEOptions(RunOptions):
    """Stage 0: the autoencoder of a preset that brings none (`mini`). All values are chosen."""

    preset: str = "mini"
    """Configuration of the model, unless `init` brings one."""
    init: Path | None = None
    """Checkpoint to start from; without it the weights are random."""
    latent_channels: int = 0
    """Latent channels; 0 is as many as the preset or `init` has. More are added to those of `init`."""
    decoder_only: bool = False
    """Keep the latents as they are, so that models trained on them stay valid."""
    lr: float = 1e-3
    batch_size: int = 8
    steps: int = 20_000
    gradient_weight: float = 0.5
    """Weight of the L1 difference of picture gradients."""
    square_weight: float = 2.0
    """Weight of the mean square error, which is what PSNR measures."""
    latent_noise: float = 0.05
    """Noise on latents in training, in units of their deviation, so that the decoder forgives the denoiser."""
    latent_weight: float = 1e-4
    """Weight of the latents' mean square, which keeps them bounded."""
    adversarial_weight: float = 0.0
    """How strongly pictures are to pass for true ones before a discriminator trained along, relative to all other
    losses (their gradients are balanced in each step). What makes pictures sharp costs PSNR."""
    denoised_share: float = 0.0
    """Share of a batch whose latents are what the model's own denoiser makes of degraded copies, not the pictures'
    own, so that the decoder learns to finish what it will be given; with `decoder_only`."""
    strength: float = 1.0
    """How far the exported weights go from those of `init` to the trained ones. Less sharpness than was trained costs
    less PSNR; a finished run is exported anew by running it again with another strength."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_not_negative(
            self,
            "gradient_weight",
            "square_weight",
            "latent_noise",
            "latent_weight",
            "latent_channels",
            "adversarial_weight",
        )
        if not 0 <= self.denoised_share <= 1:
            raise ConfigError(f"denoised_share is {self.denoised_share}, must be in 0–1")
        if self.denoised_share and not self.decoder_only:
            raise ConfigError("denoised_share needs the latents that the denoiser knows; add --decoder-only")
        if not 0 < self.strength <= 1:
            raise ConfigError(f"strength is {self.strength}, must be above 0 and at most 1")
        if self.strength < 1 and not self.decoder_only:
            raise ConfigError("strength is about the way from --init to a trained decoder; add --decoder-only")
        for name in ("decoder_only", "latent_channels"):
            if getattr(self, name) and self.init is None:
                raise ConfigError(
                    f"{name} is about the latents of a trained autoencoder; name its checkpoint with --init"
                )
        if self.decoder_only and self.latent_channels:
            raise ConfigError("decoder_only keeps the latents, latent_channels changes them; give only one")

    @property
    def shardable(self) -> bool:
        """No."""
        return False


@dataclass(frozen=True)
class Step1Options(RunOptions):
    """Step 1, restoration: encoder, context and U-Net learn to denoise the picture itself, and the encoder and the
    camera predictor where it was taken from. lr is chosen for `mini`."""

    init: Path | None = None
    """Checkpoint whose autoencoder is trained, or one to train further."""
    base: Path | None = None
    """Stable Diffusion 1.x or 2.x weights to train on top of: a .safetensors file or a diffusers folder."""
    prediction_type: PredictionType | None = None
    """What `base` predicts, where the file doesn't say."""
    encoder_init: Path | None = None
    """Autoencoder (VQGAN's or Stable Diffusion's layout, .safetensors) from which a new encoder takes what fits."""
    preset: Step1Preset = "none"
    """Settings at the paper's scale; options that are given as well win."""
    lr: float = 5e-4
    batch_size: int = 16
    steps: int = 20_000
    ema_decay: float = 0.9995
    degradation: DegradationName = "train"
    """How bad inputs are made: the mix for training, or one preset; `level0` leaves them clean."""
    noisy_share: float = 0.0
    """Share of timesteps drawn from the noisier half alone (chosen; the paper draws evenly). What is sampled in one or
    two steps is decided there, and so is what the encoder has to say."""
    latent_weight: float = 0.5
    """Weight of predicting the clean latents from the features alone (chosen; the paper has no such loss). Without a
    pretrained U-Net the encoder would have to wait for it."""
    camera_weight: float = 10.0
    """Weight of the camera loss (chosen; in the paper the camera is learned in step 2 alone, from features that were
    never asked for it). 0 leaves the camera predictor as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_not_negative(self, "latent_weight", "camera_weight")
        if not 0 <= self.noisy_share <= 1:
            raise ConfigError(f"noisy_share is {self.noisy_share}, must be in 0–1")
        if self.init is None and self.base is None:
            raise ConfigError("nothing to start from; name a checkpoint with --init or Stable Diffusion with --base")
        if self.prediction_type and (self.init or not self.base):
            raise ConfigError("prediction_type is about a new model on --base; a checkpoint (--init) has its own")
        if self.encoder_init and self.init:
            raise ConfigError("encoder_init is for a new model on --base; a checkpoint (--init) has an encoder")


@dataclass(frozen=True)
class Step2Options(RunOptions):
    """Step 2, views: only the ViewTransform trains. Weights of the losses are chosen."""

    init: Path = field(kw_only=True)
    """Checkpoint after step 1."""
    preset: Step2Preset = "none"
    """Settings at the paper's scale; options that are given as well win."""
    base: Path | None = None
    """The Stable Diffusion weights that `init` was trained on top of, if it was."""
    lr: float = 5e-4
    optimizer: OptimizerName = "muon"
    """The view transform is nearly all linear layers, and learns in fewer steps so."""
    batch_size: int = 4
    steps: int = 10_000
    views: int = 4
    """Target views per face (paper: 7)."""
    denoised_views: int = 0
    """Target views per face that go through the U-Net for the diffusion loss (paper: all); the others only feel the
    feature loss. 0 leaves the diffusion loss out, which in batches as small as a CPU's got views nearer to the truth
    (benchmarks/claims, 2)."""
    degradation: DegradationName = "train"
    """How bad inputs are made: the mix for training, or one preset; `level0` leaves them clean."""
    feature_weight: float = 1.0
    """Weight of the feature loss."""
    cosine_weight: float = 0.5
    """Weight of the cosine term within the feature loss."""
    camera_weight: float = 1.0
    """Weight of the camera loss."""
    loose_targets: float = 0.0
    """How often a target view is cropped as loosely as photos are (chosen), so that views hold from rolled, zoomed and
    shifted cameras too; where it is above 0, a photo's own view is cropped as the photo."""
    own_views: bool = False
    """Draw subjects with fewer than `views` + 1 pictures too (photos, dead leaves): the same picture, each time cropped
    in its own way with `loose_targets`, then stands for several views, so that the grid learns to hold whatever a photo
    shows (chosen). A picture of a subject of which no camera is known is one by itself, under a pose lent to it."""
    lift_width: int = 0
    """Give the model a network of this width that puts the photo's features straight into the cells on their rays, at
    twice the grid's resolution (chosen; the paper's cells only attend to them). 0 keeps it as it is."""
    latent_cache: Path | None = None
    """Folder for latents of the targets, encoded once instead of in every step and rounded to float16; where several
    machines train, on storage that all see."""
    true_camera_probability: float = 0.5
    """How often the grid is built from the true source camera instead of the predicted one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_not_negative(self, "feature_weight", "cosine_weight", "camera_weight", "lift_width")
        if self.views < 1:
            raise ConfigError(f"views is {self.views}, must be at least 1")
        if not 0 <= self.denoised_views <= self.views:
            raise ConfigError(f"denoised_views is {self.denoised_views}, must be in 0–{self.views} (views)")
        if not self.denoised_views and not self.feature_weight:
            raise ConfigError("denoised_views and feature_weight are both 0, so nothing would train the views")
        if self.latent_cache and not self.denoised_views:
            raise ConfigError("latent_cache is for the diffusion loss, and denoised_views is 0; leave it out")
        if self.latent_cache and self.tone_probability:
            raise ConfigError("latent_cache keeps latents of pictures as they are; leave it or tone_probability out")
        if not 0 <= self.loose_targets <= 1:
            raise ConfigError(f"loose_targets is {self.loose_targets}, must be in 0–1")
        if self.latent_cache and self.loose_targets:
            raise ConfigError("latent_cache keeps latents of canonical crops; leave it or loose_targets out")
        if not 0 <= self.true_camera_probability <= 1:
            raise ConfigError(f"true_camera_probability is {self.true_camera_probability}, must be in 0–1")

    @property
    def shardable(self) -> bool:
        """No."""
        return False

    @property
    def pictures_per_batch(self) -> int:
        """Target views."""
        return self.batch_size * self.views
