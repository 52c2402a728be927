"""Are the heads that were rendered here those that were published? A checksum of each, and a fingerprint for rounding.

heads_v1.json holds both for all heads of `--set heads-v1` at 128². Processors round differently, so that a pixel in a
few thousand may come out one step lighter. The fingerprint, mean colours of each picture's quarters, doesn't move by
that; it does by another head, camera or light, but not by detail: a blurred picture has the same mean colours. Only the
checksum proves that heads are the published ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nvb_core.errors import ConfigError

from .benchmark import Benchmark, BenchmarkFace
from .measure import degrade_input

MANIFEST = Path(__file__).with_name("heads_v1.json")
PUBLISHED_SIZE_PX = 128
DEGRADED_LEVELS = (1, 2)
QUARTERS = 2
MOST_DIFFERENCE = 2
"""Of a fingerprint's 8-bit mean colours: what rounding may change."""


@dataclass(frozen=True)
class Print:
    """What is published of one head."""

    sha256: str
    """First 16 hexadecimal digits."""
    colours: str
    """Mean colours, 8 bit, in base64."""


@dataclass(frozen=True)
class Agreement:
    """How rendered heads compare with the published ones."""

    identical: int
    alike: int
    """Agree in mean colours, as they do where a processor rounds differently, and are not known to agree in more."""

    def __str__(self) -> str:
        total = self.identical + self.alike
        if not self.alike:
            return f"all {total} heads are the published ones, bit for bit"
        return (
            f"{self.identical} of {total} heads are the published ones bit for bit, of {self.alike} only the mean "
            "colours of each picture's quarters agree"
        )


def pictures(face: BenchmarkFace) -> Tensor:
    """All pictures of a head, then its input at each degraded level: (N + 3 + L, 3, S, S) uint8."""
    degraded = [degrade_input(face, level) for level in DEGRADED_LEVELS]
    images = [face.image, *face.targets, *(view.image for view in face.pair), *degraded]
    return ((torch.stack(images).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def print_of(face: BenchmarkFace) -> Print:
    """Of a rendered head. The checksum covers the cameras, too."""
    values = pictures(face)
    labels = face.cameras.all.to_eg3d().numpy().round(9).astype("<f8").tobytes()
    sha256 = hashlib.sha256(values.numpy().tobytes() + labels).hexdigest()[:16]
    means = F.adaptive_avg_pool2d(values.float(), QUARTERS).round().to(torch.uint8)
    return Print(sha256, base64.b64encode(means.numpy().tobytes()).decode())


def difference(a: Print, b: Print) -> int:
    """The largest difference of two fingerprints' mean colours, 0 to 255."""
    first, second = (np.frombuffer(base64.b64decode(item.colours), np.uint8).astype(int) for item in (a, b))
    return int(np.abs(first - second).max()) if first.shape == second.shape else 255


def read_manifest(path: Path = MANIFEST) -> dict[int, Print]:
    """Prints by seed."""
    heads = json.loads(path.read_text(encoding="utf-8"))["heads"]
    return {int(seed): Print(*values) for seed, values in heads.items()}


def manifest_text(prints: Mapping[int, Print]) -> str:
    """JSON that `read_manifest` reads; `sha256` stands for all heads together."""
    whole = hashlib.sha256("".join(prints[seed].sha256 for seed in sorted(prints)).encode()).hexdigest()
    lines = [f'"{seed}": {json.dumps([p.sha256, p.colours])}' for seed, p in sorted(prints.items())]
    head = {"set": "heads-v1", "image_size": PUBLISHED_SIZE_PX, "sha256": whole}
    return json.dumps(head)[:-1] + ', "heads": {\n' + ",\n".join(lines) + "\n}}\n"


def compare_with_published(benchmark: Benchmark, seeds: Sequence[int], published: Mapping[int, Print]) -> Agreement:
    """Raise ConfigError if a head isn't the published one."""
    identical = 0
    for seed in seeds:
        found = print_of(benchmark.load(seed))
        off = difference(found, published[seed])
        if off > MOST_DIFFERENCE:
            raise ConfigError(
                f"{benchmark.folder / f'{seed:08d}'}: not the published head of heads-v1 (mean colours differ by {off} "
                "of 255): the renderer was changed, or the pictures were; delete the folder to render it again"
            )
        identical += found.sha256 == published[seed].sha256
    return Agreement(identical, len(seeds) - identical)
