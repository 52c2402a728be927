"""Sharp pictures -> degraded ones, to try how robust a workflow is."""

from __future__ import annotations

import comfy.model_management as memory
from comfy_api.latest import io
from torch import Tensor

from ..nvb_core.degradation import PRESETS, Degradation, DegradationPass, degrade, sample_degradation
from ..nvb_core.degradation_ops import BlurKernel, Noise
from ..nvb_core.errors import ConfigError
from .images import to_comfy, to_core
from .sockets import CATEGORY
from .widgets import seed_input

CUSTOM = "custom"
LEVELS = ("level0", "level1", "level2")
MAX_BLUR_PX = 10.0  # a kernel of 63 pixels, the largest there is, reaches to three deviations


class NVBDegrade(io.ComfyNode):
    """Degrades pictures as the training does."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBDegrade",
            display_name="Degrade Image",
            category=CATEGORY,
            description=(
                "Makes pictures worse, to see what the model makes of them: blur, low resolution, noise and JPEG, in "
                "Real-ESRGAN's second-order pipeline (level1 weak, level2 strong, level0 none) or with your own "
                "numbers (custom). All pictures of a batch are degraded alike; only their noise differs."
            ),
            inputs=[
                io.Image.Input("image", tooltip="Pictures; best the aligned crops, whose size is the model's."),
                io.Combo.Input(
                    "level",
                    options=[*LEVELS, CUSTOM],
                    default="level2",
                    tooltip="level0 changes nothing, level1 is weak, level2 strong; custom takes the numbers below.",
                ),
                seed_input("Draws the degradation of a level, and the noise."),
                io.Float.Input(
                    "blur",
                    default=2.0,
                    min=0.0,
                    max=MAX_BLUR_PX,
                    step=0.1,
                    tooltip="custom: standard deviation of a Gaussian blur in pixels; 0 is none.",
                ),
                io.Float.Input(
                    "scale",
                    default=0.25,
                    min=0.02,
                    max=1.0,
                    step=0.01,
                    tooltip="custom: shrink to this fraction, and enlarge again in the end; 1 is not at all.",
                ),
                io.Float.Input(
                    "noise",
                    default=10.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="custom: standard deviation of Gaussian noise, of 255; 0 is none.",
                ),
                io.Int.Input(
                    "jpeg",
                    default=50,
                    min=0,
                    max=100,
                    tooltip="custom: JPEG quality, 1 (worst) to 100; 0 leaves JPEG out.",
                ),
            ],
            outputs=[
                io.Image.Output("degraded", display_name="degraded", tooltip="The pictures, degraded, at their size.")
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, level: str, seed: int, blur: float, scale: float, noise: float, jpeg: int
    ) -> io.NodeOutput:
        pixels = to_core(image)
        if level == CUSTOM:
            chosen = _custom(seed, blur, scale, noise, jpeg)
        elif level in LEVELS:
            chosen = sample_degradation(seed, PRESETS[level])
        else:
            raise ConfigError(f"level {level!r:.40} must be one of {', '.join((*LEVELS, CUSTOM))}")
        worse = degrade(pixels, [chosen] * len(pixels), range(len(pixels)))
        return io.NodeOutput(to_comfy(worse).to(memory.intermediate_device()))


def _custom(seed: int, blur: float, scale: float, noise: float, jpeg: int) -> Degradation:
    size_px = 2 * min(31, max(1, round(3 * blur))) + 1
    return Degradation(
        DegradationPass(
            blur=BlurKernel("gaussian", size_px, blur, blur) if blur else None,
            scale=scale,
            noise=Noise("gaussian", noise, gray=False) if noise else None,
            jpeg_quality=jpeg or None,
        ),
        noise_seed=seed,
    )
