from __future__ import annotations

import errno
import hashlib
import json
import pickle
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nvb_core.checkpoint import LICENSE, count_values, file_sha256, load_model, read_metadata, save_model
from nvb_core.config import tiny_config
from nvb_core.errors import CheckpointError, OutputError
from nvb_core.model import NVBModel

TRAINING = {"step1": {"steps": 7, "seed": 1, "git": "abc"}}
KEY = "encoder.stem.weight"
Edit = Callable[[dict[str, Tensor], dict[str, str]], object]


@pytest.fixture
def path(tiny_model: NVBModel, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(tiny_model, path, TRAINING)
    return path


def rewrite(path: Path, edit: Edit) -> None:
    """Change a checkpoint's tensors and header."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
    edit(tensors, header)
    save_file(tensors, path, metadata=header)


def refused(path: Path, *parts: str) -> None:
    """Loading raises one line that names the file and holds the parts."""
    with pytest.raises(CheckpointError) as error:
        load_model(path)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message


# ---- round trip ----


def test_float32_round_trip_is_exact(tiny_model: NVBModel, path: Path) -> None:
    model = load_model(path)
    assert model.config == tiny_config()
    state, loaded = tiny_model.state_dict(), model.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[name], loaded[name]) for name in state)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))


class LateLinear(nn.Linear):
    """Has no parameters before they are loaded, as ComfyUI's layers on Windows."""

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.weight = self.bias = None  # type: ignore[assignment]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in ("weight", "bias"):
            if prefix + name in state:
                setattr(self, name, nn.Parameter(state[prefix + name], requires_grad=False))


def test_layers_of_other_operations_are_filled(tiny_model: NVBModel, path: Path) -> None:
    operations = SimpleNamespace(Linear=LateLinear, Conv2d=nn.Conv2d, LayerNorm=nn.LayerNorm, GroupNorm=nn.GroupNorm)
    model = load_model(path, operations=operations)
    assert isinstance(model.view.volume.blocks[0].cross.to_q, LateLinear)
    state, loaded = tiny_model.state_dict(), model.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[name], loaded[name]) for name in state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_round_trip(tiny_model: NVBModel, tmp_path: Path, dtype: torch.dtype) -> None:
    tiny_model.vae.latent_mean.fill_(1 / 3)
    path = tmp_path / "half.safetensors"
    save_model(tiny_model, path, TRAINING, dtype)
    model = load_model(path)
    for name, parameter in tiny_model.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter.to(dtype).float())
    assert torch.equal(model.vae.latent_mean, tiny_model.vae.latent_mean)  # buffers keep float32
    half = load_model(path, dtype=dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    assert {b.dtype for b in half.buffers()} == {torch.float32}


def test_header(path: Path) -> None:
    header = read_metadata(path)
    assert (header["format"], header["version"], header["license"]) == ("nvb-face", "1", LICENSE)
    assert header["base_model"] == "none"
    assert header["training"] == TRAINING
    assert header["config"] == json.loads(json.dumps(tiny_config().to_dict()))
    assert header["config_object"] == tiny_config()
    assert load_model(path).metadata == header


def test_tensor_names_begin_with_the_submodules(path: Path) -> None:
    assert {name.partition(".")[0] for name in load_file(path)} == {"encoder", "view", "context", "unet", "vae"}


def test_count_values(tiny_model: NVBModel, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_model(tiny_model, path, {}, torch.float16)
    parameters = sum(p.numel() for p in tiny_model.parameters())
    assert count_values(path) == {"F16": parameters, "F32": sum(b.numel() for b in tiny_model.buffers())}


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = bytes(range(256)) * 5000  # more than one block
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()


# ---- files that aren't checkpoints ----


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path, "no such file")


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_truncated_file(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "not a readable safetensors file")


@pytest.mark.parametrize(
    "content", [b"hello, world, this is text", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(1000), b"\xff" * 1000]
)
def test_not_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, "not a readable safetensors file")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("the pickle was loaded",)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_pickle_renamed(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"bomb": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    refused(path, "a pickle")
    with pytest.raises(CheckpointError, match="a pickle"):
        read_metadata(path)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickle_renamed(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb(), protocol))
    refused(path, "a pickle")


# ---- headers ----


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "diffusers", "format is 'diffusers', expected 'nvb-face'"),
        ("version", "2", "version '2' isn't known, only 1"),
        ("config", "{", "header 'config' isn't JSON"),
        ("config", "[]", "header 'config' isn't a JSON object"),
        ("config", "{}", "header config doesn't fit: config: unknown or missing keys"),
        ("training", "yesterday", "header 'training' isn't JSON"),
        ("training", "[" * 100_000, "header 'training' isn't JSON"),
        ("training", "9" * 5000, "header 'training' isn't JSON"),
        ("training", "null", "header 'training' isn't a JSON object"),
    ],
)
def test_bad_header_value(path: Path, key: str, value: str, message: str) -> None:
    rewrite(path, lambda tensors, header: header.update({key: value}))
    refused(path, message)
    with pytest.raises(CheckpointError):
        read_metadata(path)


@pytest.mark.parametrize("key", ["config", "base_model", "training", "license"])
def test_missing_header_key(path: Path, key: str) -> None:
    rewrite(path, lambda tensors, header: header.pop(key))
    refused(path, f"header lacks {key!r}")


@pytest.mark.parametrize("key", ["format", "version"])
def test_missing_format_or_version(path: Path, key: str) -> None:
    rewrite(path, lambda tensors, header: header.pop(key))
    refused(path, f"{key} ", "None")


def test_no_header_at_all(path: Path) -> None:
    save_file(load_file(path), path)
    refused(path, "format is None")


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("encoder", "norm_groups", 3, "config doesn't fit: encoder width and norm_groups: 8 is not"),
        ("encoder", "patch", 0, "config doesn't fit: encoder.patch is 0"),
        ("unet", "attention_heads", [2], "config doesn't fit: unet: block_out_channels"),
        ("view", "surprise", 1, "config doesn't fit: config.view: unknown or missing keys surprise"),
        ("encoder", "out_channels", 32, "has shape (16, 16, 3, 3), expected (32, 16, 3, 3)"),
        ("view", "volume_blocks", 2, "tensor view.volume.blocks.1.cross.to_kv.weight is missing"),
        ("unet", "layers_per_block", 2, "is missing"),
    ],
)
def test_config_that_does_not_fit(path: Path, part: str, name: str, value: Any, message: str) -> None:
    def edit(tensors: dict[str, Tensor], header: dict[str, str]) -> None:
        config = json.loads(header["config"])
        config[part][name] = value
        header["config"] = json.dumps(config)

    rewrite(path, edit)
    refused(path, message)


# ---- tensors ----


def test_missing_tensor(path: Path) -> None:
    rewrite(path, lambda tensors, header: tensors.pop(KEY))
    refused(path, f"tensor {KEY} is missing")


def test_unexpected_tensor(path: Path) -> None:
    rewrite(path, lambda tensors, header: tensors.update({"unet.extra": torch.zeros(1)}))
    refused(path, "tensor unet.extra is unexpected")


@pytest.mark.parametrize("shape", [(), (3,), (8, 3, 3), (8, 3, 3, 4)])
def test_misshapen_tensor(path: Path, shape: tuple[int, ...]) -> None:
    rewrite(path, lambda tensors, header: tensors.update({KEY: torch.zeros(shape)}))
    refused(path, f"{KEY} has shape {shape}, expected (8, 3, 3, 3)")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(path: Path, value: float) -> None:
    def edit(tensors: dict[str, Tensor], header: dict[str, str]) -> None:
        tensors[KEY][3, 1, 0, 2] = value

    rewrite(path, edit)
    refused(path, f"{KEY} holds NaN or infinite values")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.float8_e4m3fn])
def test_tensor_of_another_kind(path: Path, dtype: torch.dtype) -> None:
    rewrite(path, lambda tensors, header: tensors.update({KEY: torch.zeros(8, 3, 3, 3).to(dtype)}))
    refused(path, f"{KEY} is of {dtype}")


# ---- writing ----


def unwritten(model: NVBModel, path: Path) -> None:
    with pytest.raises(OutputError) as error:
        save_model(model, path, {})
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_writing_where_a_file_is_in_the_way(tiny_model: NVBModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    unwritten(tiny_model, tmp_path / "file" / "model.safetensors")
    assert (tmp_path / "file").read_text() == "mine"


def test_writing_onto_a_folder(tiny_model: NVBModel, tmp_path: Path) -> None:
    folder = tmp_path / "model.safetensors"
    folder.mkdir()
    unwritten(tiny_model, folder)
    assert list(tmp_path.rglob("*")) == [folder]


def test_name_that_is_too_long(tiny_model: NVBModel, tmp_path: Path) -> None:
    unwritten(tiny_model, tmp_path / ("x" * 250))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_space() -> Iterator[None]:
    """Files can't grow beyond 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_space(tiny_model: NVBModel, path: Path, no_space: None) -> None:
    before = path.read_bytes()
    unwritten(tiny_model, path)
    unwritten(tiny_model, path.with_name("new.safetensors"))
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_nothing_half_written_stays(
    tiny_model: NVBModel, path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def stops_half_way(tensors: dict[str, Tensor], filename: Path, metadata: dict[str, str]) -> None:
        filename.write_bytes(b"half")
        raise failure

    before = path.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", stops_half_way)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save_model(tiny_model, path, {})
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


def test_makes_the_folder_and_replaces_an_older_file(tiny_model: NVBModel, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "model.safetensors"
    save_model(tiny_model, path, {})
    save_model(tiny_model, path, TRAINING)
    assert read_metadata(path)["training"] == TRAINING
    assert list(path.parent.iterdir()) == [path]
