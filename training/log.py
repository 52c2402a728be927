"""What a run leaves to look at: `loss.jsonl`, a tracker's log, a line on the console, pictures."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import Tensor

from nvb_core.errors import ConfigError
from nvb_core.images import to_pil
from nvb_core.staging import write_atomically

from .options import Tracker
from .state import LossLog

LOG_NAME = "loss.jsonl"
WANDB_RUN_NAME = "wandb_run.txt"


class RunLog:
    """Appends to the log files in a run's folder, from the step that it is resumed at."""

    def __init__(
        self, out: Path, resumed_step: int, tracker: Tracker = "tensorboard", record: dict[str, Any] | None = None
    ) -> None:
        self.out = out
        self.losses = LossLog(out / LOG_NAME, resumed_step)
        self.tracker = start_tracker(tracker, out, resumed_step, record or {})

    def add_values(self, step: int, total: str, values: dict[str, float]) -> None:
        """Losses and speed after `step` of `total` steps."""
        self.losses.append(step, values)
        if self.tracker:
            self.tracker.log(values, step=step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {step}/{total}  {shown}", flush=True)

    def add_picture(self, step: int, picture: Tensor) -> None:
        """`pictures/{step}.png` and the tracker, from (3, H, W) in [-1, 1]."""
        path = self.out / "pictures" / f"{step:07d}.png"
        write_atomically(path, lambda partial: to_pil(picture).save(partial, format="PNG"))
        if self.tracker:
            images = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(0, -1)[None].numpy()  # (1, H, W, 3)
            layout = {"dataformats": "NHWC"} if self.tracker.name == "tensorboard" else {}
            self.tracker.log_images({"picture": images}, step=step, **layout)

    def close(self) -> None:
        """Flush what the tracker has still to write."""
        if self.tracker:
            self.tracker.finish()


def check_tracker(name: Tracker) -> None:
    """Raise ConfigError if a tracker's package isn't there."""
    if name != "none" and find_spec(name) is None:
        raise ConfigError(
            f"logging to {name} needs its package; pip install {name}, or use --tracker none where there is that option"
        )


def start_tracker(name: Tracker, out: Path, resumed_step: int, record: dict[str, Any]) -> Any:
    """accelerate's tracker of that name, going on after `resumed_step`; None for none. Raises ConfigError."""
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    check_tracker(name)
    if name == "none":
        return None
    if name == "tensorboard":
        tracker = TensorBoardTracker(name, out, purge_step=resumed_step + 1)
        tracker.start()
        return tracker
    tracker = WandBTracker("nvb-face", id=wandb_run(out, resumed_step), resume="allow", dir=str(out), config=record)
    tracker.start()
    return tracker


def wandb_run(out: Path, resumed_step: int) -> str:
    """The identity of a run at Weights & Biases, kept in its folder; a run that starts afresh gets a new one."""
    path = out / WANDB_RUN_NAME
    if resumed_step and path.exists():
        return path.read_text(encoding="utf-8").strip()
    identity = uuid4().hex[:16]
    write_atomically(path, lambda partial: partial.write_text(identity, encoding="utf-8"))
    return identity
