"""Latents of step 2's targets on disk: the canonical crop of each image, and its mirror, encoded once.

    DIR/{folder}-{key}-{first image}.npy   (PART, 2, Z, h, w) float16; the second of two is the mirrored crop's

The key stands for the autoencoder's weights, the images (names and sizes in bytes) and the crop: what doesn't fit is
never read, unless an image was replaced by one of the very same size.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nvb_core.autoencoder import Autoencoder
from nvb_core.errors import CheckpointError
from nvb_core.staging import write_atomically

from .data import FaceFolder, FaceSource, to_float

PART = 512
"""Images in a file: as many a killed run loses at most, and as many processes wait for each other."""
CHUNK = 8
"""Images encoded at once."""
OPEN_PARTS = 256
"""Files that are kept open: each takes one of the files that a process may have open, often 1024."""


class LatentCache:
    """Latents of a face folder, memory-mapped; the processes of a launch share out the files that are missing."""

    def __init__(
        self, directory: Path, vae: Autoencoder, faces: FaceFolder, latent_shape: tuple[int, int, int]
    ) -> None:
        """latent_shape (Z, h, w). Raises OutputError, and CheckpointError for a damaged file."""
        from accelerate import PartialState
        from rich.console import Console
        from rich.progress import track

        state, weights = PartialState(), fingerprint(vae)
        self.faces = faces
        parts = [p for s in faces.sources for p in _parts(directory, s, faces.size, weights, latent_shape)]
        rounds = range(state.process_index, len(parts) + state.process_index, state.num_processes)
        shown = not all(part.path.exists() for part in parts) and state.is_main_process
        for own in track(rounds, "encoding latents", console=Console(stderr=True), disable=not shown):
            if own < len(parts) and not parts[own].path.exists():
                parts[own].write(vae.to(state.device), faces.size)
            state.wait_for_everyone()  # in each round, as a launch's patience may end before all is encoded
        self.parts: dict[FaceSource, list[_Part]] = {source: [] for source in faces.sources}
        for part in parts:
            part.open()  # a damaged file shows now, not hours later
            self.parts[part.source].append(part)

    def __call__(self, images: Tensor, mirrored: Tensor) -> Tensor:
        """Images (B, N) of the folder, of which those of mirrored faces (B,) are -> latents (B, N, Z, h, w) float16."""
        flat = images.flatten().numpy()
        flips = mirrored.repeat_interleave(images.shape[1]).long().numpy()
        found = np.empty((len(flat), *next(iter(self.parts.values()))[0].latent_shape), np.float16)
        for source, rows, local in self.faces.by_source(flat):
            for row, image in zip(rows, local.tolist(), strict=True):
                found[row] = _opened(self.parts[source][image // PART])[image % PART, flips[row]]
        return torch.from_numpy(found).unflatten(0, tuple(images.shape))


@dataclass(frozen=True)
class _Part:
    """One file: latents of some images of a source."""

    path: Path
    source: FaceSource
    images: range
    latent_shape: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.images), 2, *self.latent_shape)

    def write(self, vae: Autoencoder, size: int) -> None:
        """In order and not through a memory map, where a full disk would end the process without an error."""
        device = next(vae.parameters()).device

        def encode(path: Path) -> None:
            with path.open("wb") as file, torch.no_grad():
                header = {"descr": "<f2", "fortran_order": False, "shape": self.shape}
                np.lib.format.write_array_header_1_0(file, header)
                for chunk in torch.tensor(self.images).split(CHUNK):
                    crops = self.source.canonical_crops(to_float(self.source.images(chunk)), size)
                    both = torch.stack([crops, crops.flip(-1)], dim=1).flatten(0, 1).to(device)
                    file.write(vae.encode(both).cpu().to(torch.float16).numpy().tobytes())

        write_atomically(self.path, encode)

    def open(self) -> np.ndarray:
        """Its latents, memory-mapped. Raises CheckpointError."""
        try:
            found: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.path}: another process has made it where this one can't see it; "
                "--latent-cache has to lie on storage that all machines see"
            ) from None
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(
                f"{self.path}: not a readable cache of latents ({error}); delete it to make it anew"
            ) from None
        if found.shape != self.shape or found.dtype != np.float16:
            raise CheckpointError(
                f"{self.path}: holds {found.dtype} of shape {found.shape}, expected float16 {self.shape}; "
                "delete it to make it anew"
            )
        return found


@functools.lru_cache(OPEN_PARTS)
def _opened(part: _Part) -> np.ndarray:
    return part.open()


def _parts(
    directory: Path, source: FaceSource, size: int, weights: str, latent_shape: tuple[int, int, int]
) -> Iterator[_Part]:
    stem = f"{source.root.resolve().name}-{source_key(source, size, weights)}"
    for first in range(0, len(source), PART):
        images = range(first, min(first + PART, len(source)))
        yield _Part(directory / f"{stem}-{first:07d}.npy", source, images, latent_shape)


def fingerprint(vae: Autoencoder) -> str:
    """16 hexadecimal digits that stand for an autoencoder's encoder and its latents' statistics."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        if not name.startswith(("kl.decoder", "kl.post_quant", "preview")):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def source_key(source: FaceSource, size: int, weights: str) -> str:
    """16 hexadecimal digits that stand for images (names and sizes in bytes), the crop and the autoencoder."""
    files = [(path.relative_to(source.root).as_posix(), path.stat().st_size) for path in source.files]
    content = repr((weights, size, source.side, source.canonical_px, files))
    return hashlib.sha256(content.encode()).hexdigest()[:16]
