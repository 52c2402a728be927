"""What a run leaves to look at: `loss.jsonl`, TensorBoard events, a line on the console, pictures."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from nvb_core.images import to_pil
from nvb_core.staging import write_atomically

from .state import LossLog

LOG_NAME = "loss.jsonl"


class RunLog:
    """Appends to the log files in a run's folder, from the step that it is resumed at."""

    def __init__(self, out: Path, resumed_step: int) -> None:
        self.out = out
        self.losses = LossLog(out / LOG_NAME, resumed_step)
        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=resumed_step + 1)

    def add_values(self, step: int, total: str, values: dict[str, float]) -> None:
        """Losses and speed after `step` of `total` steps."""
        self.losses.append(step, values)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {step}/{total}  {shown}", flush=True)

    def add_picture(self, step: int, picture: Tensor) -> None:
        """`pictures/{step}.png` and TensorBoard, from (3, H, W) in [-1, 1]."""
        path = self.out / "pictures" / f"{step:07d}.png"
        write_atomically(path, lambda partial: to_pil(picture).save(partial, format="PNG"))
        self.writer.add_image("picture", (picture.clamp(-1, 1) + 1) / 2, step)

    def close(self) -> None:
        """Flush what TensorBoard has still to write."""
        self.writer.close()
