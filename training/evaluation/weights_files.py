"""Files of other people's networks: found, checked and read; downloaded only when that is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nvb_core.checkpoint import file_sha256
from nvb_core.errors import ConfigError


@dataclass(frozen=True)
class WeightsFile:
    """A published file whose name ends in the first digits of its sha256."""

    option: str
    """Its name on the command line."""
    url: str
    serves: str
    """The metrics that need it."""

    @property
    def name(self) -> str:
        """Of the file."""
        return self.url.rpartition("/")[2]

    @property
    def sha256_start(self) -> str:
        """First digits of its sha256."""
        return promised_sha256(self.name)

    @property
    def cached(self) -> Path:
        """Where torch.hub, and so torchvision, keeps it."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name


VGG16 = WeightsFile("vgg16", "https://download.pytorch.org/models/vgg16-397923af.pth", "LPIPS (VGG16) and DISTS")
ALEXNET = WeightsFile("alexnet", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "LPIPS (AlexNet)")
INCEPTION = WeightsFile(
    "inception",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "FID and KID",
)


@dataclass(frozen=True)
class FoundFile:
    """A file and its sha256."""

    path: Path
    sha256: str

    @classmethod
    def check(cls, path: Path, promised: str = "") -> FoundFile:
        """Raises ConfigError if the file isn't there or its sha256 doesn't begin as its name has promised."""
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        sha256 = file_sha256(path)
        if not sha256.startswith(promised):
            raise ConfigError(
                f"{path}: damaged: its sha256 begins with {sha256[: len(promised)]}, not as its name says; "
                "delete it and get it again"
            )
        return cls(path, sha256)


def promised_sha256(name: str) -> str:
    """`397923af` of `vgg16-397923af.pth`, nothing of a name without."""
    found = re.fullmatch(r".*-([0-9a-f]{8,64})\.\w+", name)
    return found[1] if found else ""


def find_weights(file: WeightsFile, given: Path | None, allow_download: bool) -> FoundFile | None:
    """The file at the given path, else in torch.hub's cache, else downloaded into it if allowed; None if not.

    Raises ConfigError for a file that is named but not there, damaged, or can't be downloaded.
    """
    if given is None and not file.cached.is_file():
        if not allow_download:
            return None
        download(file)
    path = given or file.cached
    return FoundFile.check(path, promised_sha256(path.name))


def download(file: WeightsFile) -> None:
    """Fetch the file into torch.hub's cache. Raises ConfigError."""
    try:
        file.cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(file.url, str(file.cached), hash_prefix=file.sha256_start)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"--allow-download: {file.url} could not be fetched ({error}); get it by other means and give it with "
            f"--{file.option} FILE"
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors file or of one by torch.save, of which only tensors are accepted.

    Raises ConfigError.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged files unpickling raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{path}: not readable as weights ({reason:.80}); get it again") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{path}: holds something else than tensors by name; give a state dict")
    return dict(state)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], ignored: tuple[str, ...], path: Path) -> None:
    """Put the tensors, but those whose names begin with one of `ignored`, into the module, which gets all or none.

    Raises ConfigError that names the file and the tensor that is missing, unknown or misshapen.
    """
    found = {key: value for key, value in tensors.items() if not key.startswith(ignored)}
    expected = module.state_dict()
    for key in sorted(expected.keys() | found.keys()):
        if key.endswith("num_batches_tracked"):  # older files lack it; only training reads it
            found[key] = expected.get(key, torch.zeros(()))
        problem = (
            f"{key} is missing"
            if key not in found
            else f"{key} is unknown"
            if key not in expected
            else f"{key} is {tuple(found[key].shape)}, not {tuple(expected[key].shape)}"
            if found[key].shape != expected[key].shape
            else ""
        )
        if problem:
            raise ConfigError(f"{path}: not the weights of {type(module).__name__}: {problem}")
    module.load_state_dict(found)
