"""Pictures to look at: one strip per identity, and a sheet of strips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nvb_core.images import to_pil

from .benchmark import BenchmarkFace
from .measure import GeneratedFaces
from .scores import IdentityScores

MAX_STRIPS = 12
GAP_PX, CAPTION_PX = 8, 20
_PAPER, _INK = "white", "black"


def face_strip(face: BenchmarkFace, generated: GeneratedFaces, index: int) -> Image.Image:
    """Degraded input above its restoration, then the generated views above the true ones, from left to right by yaw."""
    order = face.cameras.targets.angles().yaw_deg.argsort()
    gap = torch.ones(3, 2 * face.image.shape[-1], GAP_PX)
    columns = [_above(generated.degraded[index], generated.restored[index]), gap]
    columns += [_above(generated.views[index, i], face.targets[i]) for i in order.tolist()]
    return to_pil(torch.cat(columns, dim=-1))


def _above(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.cat([top, bottom], dim=-2)


def contact_sheet(strips: Sequence[Path], scores: Sequence[IdentityScores]) -> Image.Image:
    """The first identities' strips, one below the other, each under a line that says what it scored."""
    shown = list(zip(strips, scores, strict=True))[:MAX_STRIPS]
    with Image.open(strips[0]) as first:
        width, height = first.size
    step = height + CAPTION_PX
    sheet = Image.new("RGB", (width, step * len(shown)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (path, identity) in enumerate(shown):
        with Image.open(path) as strip:
            sheet.paste(strip.convert("RGB"), (0, row * step + CAPTION_PX))
        draw.text((4, row * step + CAPTION_PX / 2), _caption(identity), _INK, ImageFont.load_default(12), anchor="lm")
    return sheet


def _caption(scores: IdentityScores) -> str:
    views = scores.views
    psnr, ssim = (sum(values) / len(views) for values in ([v.psnr for v in views], [v.ssim for v in views]))
    return (
        f"{scores.seed}: input {scores.degraded_psnr:.1f} dB over restored {scores.restored_psnr:.1f} dB; "
        f"views over truth, {psnr:.1f} dB, SSIM {ssim:.2f}"
    )
