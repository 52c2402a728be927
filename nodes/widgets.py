"""Inputs that several nodes have alike, and what they say of a text before the run."""

from __future__ import annotations

from collections.abc import Callable

from comfy_api.latest import io

from ..nvb_core.errors import NVBError

MAX_SEED = 2**53 - 1  # the largest integer that a browser keeps exactly


def verdict(check: Callable[[str], object], text: str | None) -> bool | str:
    """What `validate_inputs` says of a text: True, or what `check` finds wrong with it.

    ComfyUI passes None for a text that is linked: it comes only with the run, and `execute` checks it then.
    """
    try:
        if text is not None:
            check(text)
    except NVBError as error:
        return str(error)
    return True


def seed_input(tooltip: str) -> io.Int.Input:
    return io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=tooltip)


def steps_input() -> io.Int.Input:
    return io.Int.Input(
        "steps",
        default=0,
        min=0,
        max=1000,
        tooltip="Denoising steps. 0: as many as the model is best with; the built-in one takes 2.",
    )


def frame_input() -> io.Combo.Input:
    return io.Combo.Input(
        "frame",
        options=["face", "input"],
        default="face",
        tooltip="Where angles count from: face (0 is the frontal face) or input (0 is the camera of the photo, so "
        "that all zeros restore the photo's own view).",
    )


def lens_inputs() -> list[io.Float.Input]:
    return [
        io.Float.Input(
            "radius",
            default=0.0,
            min=0.0,
            max=20.0,
            step=0.05,
            tooltip="Distance from the head's centre. 0: the normal 2.7; in frame input, the photo's own.",
        ),
        io.Float.Input(
            "fov_deg",
            default=0.0,
            min=0.0,
            max=120.0,
            step=0.1,
            tooltip="Field of view in degrees. 0: the normal 13.4; in frame input, the photo's own.",
        ),
    ]
