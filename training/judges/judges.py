"""The trained judges, as the evaluation uses them."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nvb_core.errors import CheckpointError
from nvb_core.staging import write_atomically
from nvb_core.tensor_files import open_safetensors, read_exactly

from .network import MIRRORED, JudgeConfig, JudgeNetwork

SHIPPED = Path(__file__).with_name("judges.safetensors")
FORMAT, VERSION = "nvb-face-judges", "1"
AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Readings:
    """What the judges see in M pictures."""

    embeddings: Tensor  # (M, E) of length 1
    angles_deg: Tensor  # (M, 3) yaw, pitch and roll of the camera in the frame `face`


class Judges:
    """Reads people and cameras off pictures."""

    def __init__(self, network: JudgeNetwork) -> None:
        self.network = network.requires_grad_(False).eval()

    @torch.no_grad()
    def read(self, images: Tensor) -> Readings:
        """Images (M, 3, S, S) in [-1, 1] of any size; each reads as it would alone."""
        size = self.network.config.size
        parts = [self._read(fitted(part.float(), size)) for part in images.split(AT_ONCE)]
        embeddings, angles_deg = (torch.cat(values) for values in zip(*parts, strict=True))
        return Readings(embeddings, angles_deg)

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and angles, each the mean of what a picture and its mirror image tell."""
        embeddings, angles_deg = self.network(torch.cat([images, images.flip(-1)]))
        person, mirrored_person = F.normalize(embeddings).chunk(2)
        seen, mirrored = angles_deg.chunk(2)
        return F.normalize(person + mirrored_person), (seen + MIRRORED * mirrored) / 2


def fitted(images: Tensor, size: int) -> Tensor:
    """Images (M, 3, S, S) resampled to size × size."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def save_judges(network: JudgeNetwork, path: Path, training: dict[str, Any]) -> None:
    """Write in float16; the file appears whole or not at all. Raises OutputError."""
    from safetensors.torch import save_file

    header = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(dataclasses.asdict(network.config)),
        "training": json.dumps(training),
        "license": "Apache-2.0",
    }
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=header))


def read_judges(path: Path) -> Judges:
    """Inverse of `save_judges`. Raises CheckpointError naming file and key."""
    with open_safetensors(path) as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT or header.get("version") != VERSION:
            found = f"{header.get('format')!r} version {header.get('version')!r}"
            raise CheckpointError(f"{path}: format {found}, expected {FORMAT!r} version {VERSION}; not our judges")
        try:
            values: dict[str, Any] = {k: _tuple(v) for k, v in json.loads(header["config"]).items()}
            network = JudgeNetwork(JudgeConfig(**values))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: header 'config' doesn't describe judges ({error})") from None
        network.load_state_dict(read_exactly(path, file, network.state_dict()))
    return Judges(network)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@functools.cache
def load_judges() -> Judges:
    """The shipped ones."""
    return read_judges(SHIPPED)


def reading_sources() -> list[Path]:
    """Files that readings depend on."""
    return [SHIPPED, *SHIPPED.parent.glob("*.py")]
