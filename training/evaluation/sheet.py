"""Pictures to look at: one strip per identity, and a sheet of strips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nvb_core.cameras import Cameras
from nvb_core.images import to_pil
from nvb_core.sheet import thinned

from .benchmark import BenchmarkFace
from .measure import GeneratedFaces
from .methods import TRUTH
from .scores import IdentityScores

MAX_STRIPS = 12
MAX_VIEWS = 16
GAP_PX, CAPTION_PX = 8, 20
_PAPER, _INK = "white", "black"


def face_strip(face: BenchmarkFace, generated: GeneratedFaces, index: int) -> Image.Image:
    """Degraded input above its restoration, then generated views above true ones, from left to right by yaw."""
    shown = views_shown(face.cameras.targets)
    gap = torch.ones(3, 2 * face.image.shape[-1], GAP_PX)
    columns = [_above(generated.degraded[index], generated.restored[index]), gap]
    columns += [_above(generated.views[index, i], face.targets[i]) for i in shown]
    return to_pil(torch.cat(columns, dim=-1))


def views_shown(targets: Cameras) -> list[int]:
    """Of N targets at most MAX_VIEWS, evenly chosen, from left to right by yaw."""
    return thinned(targets.angles().yaw_deg.argsort().tolist(), MAX_VIEWS)


def _above(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.cat([top, bottom], dim=-2)


def contact_sheet(
    strips: Sequence[Path], scores: Sequence[IdentityScores], names: Mapping[int, str] = MappingProxyType({})
) -> Image.Image:
    """The first identities' strips, one below the other, each under a line that says what it scored; names by seed."""
    shown = list(zip(strips, scores, strict=True))[:MAX_STRIPS]
    sizes = [_size(path) for path, _ in shown]
    width, height = max(width for width, _ in sizes), sizes[0][1]
    step = height + CAPTION_PX
    sheet = Image.new("RGB", (width, step * len(shown)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (path, identity) in enumerate(shown):
        with Image.open(path) as strip:
            sheet.paste(strip.convert("RGB"), (0, row * step + CAPTION_PX))
        caption = _caption(names.get(identity.seed, str(identity.seed)), identity)
        draw.text((4, row * step + CAPTION_PX / 2), caption, _INK, ImageFont.load_default(12), anchor="lm")
    return sheet


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as strip:
        return strip.size


def side_by_side(strips: Sequence[Path], others: Sequence[Mapping[str, Tensor]], name: str) -> Image.Image:
    """The first identities' inputs beside their views: true ones, the model's, and under them those of other systems.

    Of each identity the model's strip, and other systems' views (N, 3, S, S) from left to right by yaw, by name.
    """
    blocks = [_block(path, views, name) for path, views in list(zip(strips, others, strict=True))[:MAX_STRIPS]]
    width, height = max(block.width for block in blocks), blocks[0].height
    sheet = Image.new("RGB", (width, (height + GAP_PX) * len(blocks)), _PAPER)
    for row, block in enumerate(blocks):
        sheet.paste(block, (0, row * (height + GAP_PX)))
    return sheet


def _block(strip: Path, others: Mapping[str, Tensor], name: str) -> Image.Image:
    """One identity: a line of views for each system."""
    with Image.open(strip) as file:
        whole = file.convert("RGB")
    size, left = whole.height // 2, whole.height // 2 + GAP_PX
    generated, truth = (whole.crop((left, top, whole.width, top + size)) for top in (0, size))
    lines = {TRUTH: truth, name: generated}
    lines |= {other: to_pil(torch.cat(list(views), dim=-1)) for other, views in others.items()}
    block = Image.new("RGB", (whole.width, (size + CAPTION_PX) * len(lines)), _PAPER)
    block.paste(whole.crop((0, 0, size, size)), (0, CAPTION_PX))
    draw, font = ImageDraw.Draw(block), ImageFont.load_default(12)
    draw.text((4, CAPTION_PX / 2), "input", _INK, font, anchor="lm")
    for row, (label, line) in enumerate(lines.items()):
        top = row * (size + CAPTION_PX)
        draw.text((left + 4, top + CAPTION_PX / 2), label, _INK, font, anchor="lm")
        block.paste(line, (left, top + CAPTION_PX))
    return block


def _caption(name: str, scores: IdentityScores) -> str:
    views = scores.views
    restored = f"{name}: input {scores.degraded_psnr:.1f} dB over restored {scores.restored_psnr:.1f} dB"
    if not views:
        return restored.replace(" over", ",")
    psnr, ssim = (sum(values) / len(views) for values in ([v.psnr for v in views], [v.ssim for v in views]))
    return f"{restored}; views over truth, {psnr:.1f} dB, SSIM {ssim:.2f}"
