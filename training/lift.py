"""Give a trained model a PhotoLift, which starts by adding nothing."""

from __future__ import annotations

from dataclasses import replace

from nvb_core.errors import ConfigError
from nvb_core.lift import PhotoLift
from nvb_core.model import NVBModel


def add_lift(model: NVBModel, width: int) -> None:
    """Put a new PhotoLift of this width into the model, unless it has one. Raises ConfigError if that one differs."""
    view = model.config.view
    if view.lift_width not in (0, width):
        raise ConfigError(f"the model's lift has width {view.lift_width} already; lift_width is {width}")
    if view.lift_width:
        return
    lift = PhotoLift(model.config.channels, width, view.grid_size, view.grid_extent)
    model.view.volume.lift = lift.requires_grad_(False).eval()
    model.config = replace(model.config, view=replace(view, lift_width=width))
