"""Latents of step 2's targets on disk: the canonical crop of each image, and its mirror, encoded once.

    DIR/{folder}-{key}.npy   (N, 2, Z, h, w) float16; the second of two is the mirrored crop's

The key stands for the autoencoder's weights, the images and the crop, so that what doesn't fit is never read.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nvb_core.autoencoder import Autoencoder
from nvb_core.errors import CheckpointError
from nvb_core.staging import write_atomically

from .data import FaceFolder, FaceSource, to_float

CHUNK = 8
"""Images encoded at once."""


class LatentCache:
    """Memory-mapped latents of a face folder; files that are missing are made, by the first process."""

    def __init__(
        self, directory: Path, vae: Autoencoder, faces: FaceFolder, latent_shape: tuple[int, int, int]
    ) -> None:
        """latent_shape (Z, h, w). Raises OutputError, and CheckpointError for a damaged file."""
        from accelerate import PartialState

        state = PartialState()
        weights = fingerprint(vae)
        self.faces = faces
        self.latents: dict[FaceSource, np.ndarray] = {}
        with state.main_process_first():
            for source in faces.sources:
                path = directory / f"{source.root.resolve().name}-{source_key(source, faces.size, weights)}.npy"
                shape = (len(source), 2, *latent_shape)
                if not path.exists() and state.is_main_process:
                    vae.to(state.device)
                    write_atomically(path, functools.partial(_encode_all, vae, source, faces.size, shape))
                self.latents[source] = _open(path, shape)

    def __call__(self, images: Tensor, mirrored: Tensor) -> Tensor:
        """Images (B, N) of the folder, of which those of mirrored faces (B,) are -> latents (B, N, Z, h, w) float16."""
        flat = images.flatten().numpy()
        flips = mirrored.repeat_interleave(images.shape[1]).long().numpy()
        shape = next(iter(self.latents.values())).shape[2:]
        found = torch.empty(len(flat), *shape, dtype=torch.float16)
        for source, rows, local in self.faces.by_source(flat):
            found[rows] = torch.from_numpy(self.latents[source][local.numpy(), flips[rows]])
        return found.unflatten(0, tuple(images.shape))


def fingerprint(vae: Autoencoder) -> str:
    """16 hexadecimal digits that stand for an autoencoder's encoder and its latents' statistics."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        if not name.startswith(("kl.decoder", "kl.post_quant", "preview")):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def source_key(source: FaceSource, size: int, weights: str) -> str:
    """16 hexadecimal digits that stand for images (names and bytes), the crop and the autoencoder."""
    files = [(path.relative_to(source.root).as_posix(), path.stat().st_size) for path in source.files]
    content = repr((weights, size, source.side, source.canonical_px, files))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _encode_all(vae: Autoencoder, source: FaceSource, size: int, shape: tuple[int, ...], path: Path) -> None:
    """Written in order and not through a memory map, where a full disk would end the process without an error."""
    from rich.console import Console
    from rich.progress import track

    device = next(vae.parameters()).device
    with path.open("wb") as file, torch.no_grad():
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        chunks = torch.arange(len(source)).split(CHUNK)
        for chunk in track(chunks, f"encoding {source.root.name}", console=Console(stderr=True)):
            crops = source.canonical_crops(to_float(source.images(chunk)), size)
            both = torch.stack([crops, crops.flip(-1)], dim=1).flatten(0, 1).to(device)
            file.write(vae.encode(both).cpu().to(torch.float16).numpy().tobytes())


def _open(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path}: not a readable cache of latents ({error}); delete it to make it anew") from None
    if found.shape != shape or found.dtype != np.float16:
        raise CheckpointError(
            f"{path}: holds {found.dtype} of shape {found.shape}, expected float16 {shape}; delete it to make it anew"
        )
    return found
