"""Model configuration: frozen dataclasses, and the presets `mini`, `sd15` and `sd21` as instances of them.

Values marked *chosen* are not given by the paper (arXiv 2603.01328).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_type_hints

from .errors import ConfigError

LARGEST, MOST_LEVELS, MOST_BLOCKS = 8192, 16, 64
"""Far beyond any real model: a file that asks for more is broken or made to hang whoever opens it."""
OPTIONAL = ("lift_width",)
"""Numbers of which 0 says that the part isn't there."""


@dataclass(frozen=True)
class EncoderConfig:
    """VQGAN-style image encoder; halves the picture once between successive levels."""

    patch: int = 1
    """Pixels on a side folded into channels before the stem; `mini` folds 4×4, which is what makes it quick on CPUs."""
    base_channels: int = 64
    channel_mult: tuple[int, ...] = (1, 2, 2, 4, 4, 8)
    blocks_per_level: int = 2
    out_channels: int = 1024
    """C, the width of features, grid and U-Net context."""
    norm_groups: int = 32
    attention_heads: int = 1

    @property
    def downscale(self) -> int:
        """Image pixels per feature cell."""
        return self.patch * 2 ** (len(self.channel_mult) - 1)


@dataclass(frozen=True)
class ViewConfig:
    """Camera predictor, 3D latent grid and depth aggregation."""

    grid_size: int = 8
    grid_extent: float = 0.45
    """Half edge of the grid's cube in world units (chosen)."""
    depth_samples: int = 12
    volume_blocks: int = 12
    """Chosen."""
    volume_heads: int = 16
    """Chosen."""
    aggregator_width: int = 512
    """Chosen: 1024 would cost 0.10 TFLOP per block, view and step."""
    aggregator_blocks: int = 2
    """Chosen."""
    aggregator_heads: int = 8
    """Chosen."""
    camera_predictor_heads: int = 8
    """Chosen."""
    lift_width: int = 0
    """Chosen: of the network that puts the photo's features straight into the cells on their rays, at twice the grid's
    resolution (`lift`). 0 is none, as in the paper."""


@dataclass(frozen=True)
class UNetConfig:
    """Arguments of diffusers' `UNet2DConditionModel`; the context width is the encoder's `out_channels`."""

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    cross_attention: tuple[bool, ...] = (True, True, True, False)
    """Whether each level, from the finest on, attends to the context."""
    layers_per_block: int = 2
    attention_heads: tuple[int, ...] = (5, 10, 20, 20)
    """Heads of each level (diffusers calls the argument `attention_head_dim`)."""
    use_linear_projection: bool = True
    norm_groups: int = 32
    learned_position: bool = False
    """Chosen: whether a learned position is added after the first convolution; for a U-Net that isn't pretrained."""


@dataclass(frozen=True)
class VAEConfig:
    """Arguments of diffusers' `AutoencoderKL`."""

    patch: int = 1
    """Pixels on a side folded into channels before and after it; `mini` folds 4×4."""
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_groups: int = 32
    scaling_factor: float = 0.18215
    """Latents are multiplied by this; `mini` measures mean and deviation per channel after training instead."""
    mid_attention: bool = True

    @property
    def downscale(self) -> int:
        """Image pixels per latent cell."""
        return self.patch * 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class ScheduleConfig:
    """Noise schedule of Stable Diffusion: scaled_linear, 0.00085 to 0.012, 1000 training timesteps."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    zero_terminal_snr: bool = False
    timestep_spacing: Literal["leading", "trailing"] = "leading"
    train_timesteps: int = 1000


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a model; a checkpoint carries its own."""

    name: str = "sd21"
    image_size: int = 512
    base_model: Literal["none", "sd15", "sd21"] = "sd21"
    """Stable Diffusion weights that a checkpoint of this model is a difference to; `none` means it is complete."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sampling_steps: int = 50
    """DDIM steps that its views are best with, 1–1000, taken where nobody asks for a number; 50 is the paper's."""

    def __post_init__(self) -> None:
        if not 1 <= self.sampling_steps <= 1000:
            raise ConfigError(f"sampling_steps is {self.sampling_steps}, must be in 1–1000")
        if self.image_size > LARGEST:
            raise ConfigError(f"image_size is {self.image_size}, must be at most {LARGEST}")
        for part in ("encoder", "view", "unet", "vae", "schedule"):
            _require_positive(getattr(self, part), part)
        unet = self.unet
        if not len(unet.block_out_channels) == len(unet.cross_attention) == len(unet.attention_heads):
            raise ConfigError("unet: block_out_channels, cross_attention and attention_heads must have the same length")
        for what, value, divisor in self._divisions():
            if value <= 0 or value % divisor:
                raise ConfigError(f"{what}: {value} is not a positive multiple of {divisor}")
        if self.schedule.zero_terminal_snr and (
            self.schedule.prediction_type != "v_prediction" or self.schedule.timestep_spacing != "trailing"
        ):
            raise ConfigError("schedule: zero_terminal_snr needs v_prediction and trailing spacing")

    def _divisions(self) -> Iterator[tuple[str, int, int]]:
        """Each (what, value, divisor) of which the value must be a multiple of the divisor."""
        encoder, view, unet, vae = self.encoder, self.view, self.unet, self.vae
        widths = [encoder.base_channels * mult for mult in encoder.channel_mult]
        yield "image_size and the encoder's downscale", self.image_size, encoder.downscale
        yield "image_size and the vae's downscale", self.image_size, vae.downscale
        yield "encoder width and attention_heads", widths[-1], encoder.attention_heads
        yield "encoder out_channels and view.volume_heads", self.channels, view.volume_heads
        yield "encoder out_channels and view.camera_predictor_heads", self.channels, view.camera_predictor_heads
        yield "view.aggregator_width and aggregator_heads", view.aggregator_width, view.aggregator_heads
        for width in widths:
            yield "encoder width and norm_groups", width, encoder.norm_groups
        for width, heads in zip(unet.block_out_channels, unet.attention_heads, strict=True):
            yield "unet width and attention_heads", width, heads
            yield "unet width and norm_groups", width, unet.norm_groups
        for width in vae.block_out_channels:
            yield "vae width and norm_groups", width, vae.norm_groups

    @property
    def channels(self) -> int:
        """C, the width of features, grid and U-Net context."""
        return self.encoder.out_channels

    @property
    def feature_size(self) -> int:
        """h = w of the features."""
        return self.image_size // self.encoder.downscale

    @property
    def latent_size(self) -> int:
        """Height and width of the latent."""
        return self.image_size // self.vae.downscale

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`. Raises ConfigError on unknown or missing keys and on values of the wrong type."""
        if isinstance(values, dict):  # what is younger than the first checkpoints
            values = {"sampling_steps": cls.sampling_steps, **values}
            if isinstance(values.get("view"), dict):
                values["view"] = {"lift_width": ViewConfig.lift_width, **values["view"]}
        return _build(cls, values, "config")


def _require_positive(part: Any, where: str) -> None:
    """Every number of a part is above 0 and not absurdly large, and no list is empty."""
    for entry in fields(part):
        value = getattr(part, entry.name)
        items = value if isinstance(value, tuple) else (value,)
        numbers = [item for item in items if type(item) in (int, float)]
        if entry.name in OPTIONAL and value == 0:
            continue
        if not 1 <= len(items) <= MOST_LEVELS or not all(0 < number <= LARGEST for number in numbers):
            raise ConfigError(f"{where}.{entry.name} is {value!r:.80}, must be above 0, and at most {LARGEST}")
        if entry.name.endswith(("blocks", "blocks_per_level", "layers_per_block")) and value > MOST_BLOCKS:
            raise ConfigError(f"{where}.{entry.name} is {value}, must be at most {MOST_BLOCKS}")


def _build(cls: type[Any], values: Any, where: str) -> Any:
    """Instance of the dataclass `cls` from nested dictionaries, strictly."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected an object, got {type(values).__name__}")
    hints = get_type_hints(cls)
    names = {f.name for f in fields(cls)}
    if set(values) != names:
        wrong = sorted(set(values) ^ names)
        raise ConfigError(f"{where}: unknown or missing keys {', '.join(wrong)}")
    return cls(**{name: _convert(hints[name], values[name], f"{where}.{name}") for name in names})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    origin = getattr(hint, "__origin__", None)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(hint.__args__[0], item, where) for item in value)
    if origin is Literal:
        if value not in hint.__args__:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(str, hint.__args__))}")
        return value
    if hint is float and type(value) is int and abs(value) <= LARGEST:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r:.80}")
    return value


SD21 = ModelConfig()

SD15 = replace(
    SD21,
    name="sd15",
    base_model="sd15",
    encoder=replace(SD21.encoder, out_channels=768),
    unet=replace(SD21.unet, attention_heads=(8, 8, 8, 8), use_linear_projection=False),
)

MINI = ModelConfig(
    name="mini",
    image_size=128,
    base_model="none",
    encoder=EncoderConfig(
        patch=4, base_channels=32, channel_mult=(3, 5, 6), blocks_per_level=1, out_channels=256, norm_groups=8
    ),
    view=ViewConfig(volume_blocks=4, volume_heads=8, aggregator_width=256, aggregator_blocks=2),
    unet=UNetConfig(
        block_out_channels=(128, 192, 192),
        cross_attention=(True, True, False),
        layers_per_block=1,
        attention_heads=(4, 6, 6),
        learned_position=True,
    ),
    vae=VAEConfig(
        patch=4,
        block_out_channels=(96, 160),
        layers_per_block=1,
        latent_channels=16,
        norm_groups=8,
        mid_attention=False,
    ),
    schedule=ScheduleConfig(prediction_type="v_prediction", zero_terminal_snr=True, timestep_spacing="trailing"),
    sampling_steps=2,  # measured: benchmarks/claims, 6
)

PRESETS: dict[str, ModelConfig] = {"mini": MINI, "sd15": SD15, "sd21": SD21}


def tiny_config() -> ModelConfig:
    """A model of a few hundred thousand parameters at 32×32, for tests and dry runs."""
    return ModelConfig(
        name="tiny",
        image_size=32,
        base_model="none",
        encoder=EncoderConfig(
            base_channels=8, channel_mult=(1, 2, 2, 2), blocks_per_level=1, out_channels=16, norm_groups=4
        ),
        view=ViewConfig(
            grid_size=4,
            depth_samples=4,
            volume_blocks=1,
            volume_heads=2,
            aggregator_width=16,
            aggregator_blocks=1,
            aggregator_heads=2,
            camera_predictor_heads=2,
        ),
        unet=UNetConfig(
            block_out_channels=(8, 16),
            cross_attention=(True, False),
            layers_per_block=1,
            attention_heads=(2, 2),
            norm_groups=4,
            learned_position=True,
        ),
        vae=VAEConfig(
            block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=4, norm_groups=4, mid_attention=False
        ),
        schedule=ScheduleConfig(prediction_type="v_prediction", zero_terminal_snr=True, timestep_spacing="trailing"),
    )
