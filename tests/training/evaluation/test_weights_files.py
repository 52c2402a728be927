from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import Conv2d

from nvb_core.errors import ConfigError
from training.evaluation.weights_files import (
    ALEXNET,
    INCEPTION,
    VGG16,
    FoundFile,
    WeightsFile,
    fill,
    find_weights,
    promised_sha256,
    read_tensors,
)

CONTENT = b"some weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = WeightsFile("net", f"https://example.com/a/net-{SHA256[:8]}.pth", "a metric")


def write(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_names_promise_a_hash() -> None:
    assert [file.sha256_start for file in (VGG16, ALEXNET, INCEPTION)] == ["397923af", "7be5be79", "6726825d"]
    assert VGG16.name == "vgg16-397923af.pth"
    assert INCEPTION.name == "weights-inception-2015-12-05-6726825d.pth"
    assert [promised_sha256(name) for name in ("vgg16.pth", "vgg-397923.pth", "a-2015-12-05.pth")] == ["", "", ""]


def test_given_file_comes_before_the_cache(tmp_path: Path) -> None:
    assert find_weights(FILE, None, allow_download=False) is None
    cached = write(tmp_path / "torch/hub/checkpoints" / FILE.name)
    assert FILE.cached == cached
    assert find_weights(FILE, None, allow_download=True) == FoundFile(cached, SHA256)  # and nothing is downloaded
    given = write(tmp_path / "mine.pth", b"others")
    found = find_weights(FILE, given, allow_download=True)
    assert found == FoundFile(given, hashlib.sha256(b"others").hexdigest())


def test_names_of_others_promise_nothing(tmp_path: Path) -> None:
    network = write(tmp_path / "arcface-20230115.onnx", b"of that day")
    assert FoundFile.check(network).sha256 == hashlib.sha256(b"of that day").hexdigest()


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pth: no such file"):
        find_weights(FILE, tmp_path / "none.pth", allow_download=True)
    write(FILE.cached, b"half of it")
    start = hashlib.sha256(b"half of it").hexdigest()[:8]
    with pytest.raises(ConfigError, match=rf"net-{SHA256[:8]}\.pth: damaged: its sha256 begins with {start}"):
        find_weights(FILE, None, allow_download=False)


def test_download_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(url: str, target: str, hash_prefix: str) -> None:
        asked.append((url, hash_prefix))
        Path(target).write_bytes(CONTENT)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert find_weights(FILE, None, allow_download=True) == FoundFile(FILE.cached, SHA256)
    assert find_weights(FILE, None, allow_download=True) is not None
    assert asked == [(FILE.url, SHA256[:8])]


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("invalid hash value")])
def test_download_that_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ConfigError, match=rf"net-{SHA256[:8]}\.pth could not be fetched \({error}\); .* --net FILE"):
        find_weights(FILE, None, allow_download=True)


@pytest.mark.parametrize("old", [False, True])
def test_tensors_of_every_form(tmp_path: Path, old: bool) -> None:
    tensors = {"a": torch.rand(2, 3), "b": torch.rand(4)}
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
    save_file(tensors, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        read = read_tensors(tmp_path / name)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) for key in tensors)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this was run",)


def test_nothing_but_tensors_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("object.pth", Evil()), ("nested.pth", {"model": {"a": torch.rand(2)}}), ("list.pth", [1])):
        torch.save(content, tmp_path / name)
        with pytest.raises(ConfigError, match=rf"{re.escape(name)}: (not readable|holds something else)"):
            read_tensors(tmp_path / name)
    for name in ("text.pth", "text.safetensors"):
        with pytest.raises(ConfigError, match=rf"{re.escape(name)}: not readable as weights"):
            read_tensors(write(tmp_path / name, b"<html>404</html>"))
    torch.save({"a": torch.rand(99)}, tmp_path / "whole.pth")
    with pytest.raises(ConfigError, match=r"half\.pth: not readable as weights"):
        read_tensors(write(tmp_path / "half.pth", (tmp_path / "whole.pth").read_bytes()[:600]))
    assert capsys.readouterr().out == ""


def test_filling_is_strict() -> None:
    module, path = nn.Sequential(Conv2d(3, 4, 1), nn.BatchNorm2d(4)), Path("some.pth")
    state = {key: torch.rand(value.shape) for key, value in module.state_dict().items() if "tracked" not in key}
    fill(module, {**state, "classifier.weight": torch.rand(1)}, ("classifier.",), path)
    assert all(torch.equal(module.state_dict()[key], value) for key, value in state.items())
    for change, message in (
        ({"0.weight": torch.rand(4, 3, 3, 3)}, r"0\.weight is \(4, 3, 3, 3\), not \(4, 3, 1, 1\)"),
        ({"2.weight": torch.rand(1)}, r"2\.weight is unknown"),
    ):
        with pytest.raises(ConfigError, match=rf"some\.pth: not the weights of Sequential: {message}"):
            fill(module, {**state, **change}, ("classifier.",), path)
    del state["1.running_mean"]
    with pytest.raises(ConfigError, match=r"1\.running_mean is missing"):
        fill(module, state, ("classifier.",), path)
