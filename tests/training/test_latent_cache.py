from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nvb_core.errors import CheckpointError, OutputError
from tests.training.test_state import files_limited_to
from training import latent_cache
from training.options import Step2Options
from training.step2 import Step2Stage, train

pytestmark = pytest.mark.usefixtures("accelerate_reset")


@pytest.fixture
def build(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> Any:
    def make(**changes: Any) -> Step2Options:
        places = {"out": tmp_path / "run", "data": (faces,), "init": tiny_checkpoint}
        settings = {"batch_size": 2, "views": 3, "denoised_views": 2, "precision": "no", "steps": 2, "grid_every": 2}
        return Step2Options(**{**places, **settings, "latent_cache": tmp_path / "cache", **changes})  # type: ignore[arg-type]

    return make


def test_latents_are_those_of_the_targets(build: Any) -> None:
    stage = Step2Stage(build(), rank=0)
    seen = set()
    for index in range(6):
        batch = stage.make_batch(index)
        with torch.no_grad():
            expected = stage.model.vae.encode(batch.targets.flatten(0, 1)).unflatten(0, (2, 3))
        assert batch.latents.shape == expected.shape
        torch.testing.assert_close(batch.latents.float(), expected, rtol=2e-3, atol=2e-3)
        seen |= set(batch.mirrored.tolist())
    assert seen == {False, True}


def test_parts_and_processes_make_the_same(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Step2Stage(build(), rank=0)
    assert whole.cache is not None
    images = len(whole.folder)
    asked = [(torch.arange(images)[None], torch.tensor([mirrored])) for mirrored in (False, True)]
    expected = [whole.cache(*both) for both in asked]
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(latent_cache, "PART", 3)
    waits: list[int] = []

    def process(index: int) -> SimpleNamespace:
        state = {"num_processes": 2, "process_index": index, "is_main_process": not index, "device": "cpu"}
        return SimpleNamespace(**state, wait_for_everyone=lambda: waits.append(index))

    with monkeypatch.context() as patch:
        patch.setattr("accelerate.PartialState", lambda: process(1))
        with pytest.raises(CheckpointError, match=r"0000000\.npy: another .* on storage that all machines see"):
            whole._latent_cache()
        made = {path.name[-11:-4] for path in (tmp_path / "cache").iterdir()}
        assert made == {f"{first:07d}" for first in range(3, images, 6)}
        patch.setattr("accelerate.PartialState", lambda: process(0))
        whole._latent_cache()
    assert waits.count(0) == waits.count(1) == -(-images // 6)  # else they would wait for ever
    parted = whole._latent_cache()
    assert parted is not None
    for both, latents in zip(asked, expected, strict=True):
        torch.testing.assert_close(parted(*both), latents, rtol=2e-3, atol=2e-3)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_few_files_stay_open(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have some hundreds open, and large data sets have thousands of parts."""
    monkeypatch.setattr(latent_cache, "PART", 1)
    monkeypatch.setattr(latent_cache, "_opened", functools.lru_cache(2)(latent_cache._Part.open))
    stage = Step2Stage(build(), rank=0)

    def open_parts() -> int:
        return len(set(re.findall(rf"{tmp_path}/\S+\.npy", Path("/proc/self/maps").read_text())))

    assert open_parts() == 0
    for index in range(4):
        stage.make_batch(index)
        assert open_parts() == 2


def test_a_killed_run_goes_on(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_cache, "PART", 3)
    Step2Stage(build(), rank=0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    gone = sorted(before)[1]
    gone.unlink()
    Step2Stage(build(), rank=0)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} == {gone}


def test_the_diffusion_loss_takes_them(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, plain = Step2Stage(build(), rank=0), Step2Stage(build(latent_cache=None), rank=0)

    def losses(network: Any, batch: Any) -> dict[str, Tensor]:
        return network(batch, torch.Generator().manual_seed(0))

    expected = losses(plain.network, plain.make_batch(0))
    monkeypatch.setattr(stage.model.vae, "encode", None)
    found = losses(stage.network, stage.make_batch(0))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=2e-3, atol=1e-4)
    assert not plain.make_batch(0).latents.numel()


def test_it_is_made_once_and_anew_for_other_weights_or_images(build: Any, tmp_path: Path, faces: Path) -> None:
    def made() -> set[Path]:
        return set((tmp_path / "cache").iterdir())

    assert train(build()) == 2
    (first,) = made()
    before = first.stat().st_mtime_ns
    stage = Step2Stage(build(), rank=0)
    assert made() == {first}
    assert first.stat().st_mtime_ns == before

    stage.model.vae.latent_mean += 1
    stage._latent_cache()
    assert len(made()) == 2
    other = tmp_path / "copy" / faces.name
    shutil.copytree(faces, other)
    Step2Stage(build(data=(other,)), rank=0)
    assert len(made()) == 2, "a folder may move"
    picture = next(other.glob("*/*.png"))
    picture.write_bytes(picture.read_bytes() + b" ")
    Step2Stage(build(data=(other,)), rank=0)
    assert len(made()) == 3


@pytest.mark.parametrize("content", [b"", b"half", "other"])
def test_a_damaged_file_is_one_error(build: Any, tmp_path: Path, content: bytes | str) -> None:
    Step2Stage(build(), rank=0)
    (path,) = (tmp_path / "cache").iterdir()
    if content == "other":
        np.save(path, np.zeros((3, 2), dtype=np.float16))
    else:
        path.write_bytes(path.read_bytes()[:-100] if content == b"half" else b"")
    with pytest.raises(CheckpointError, match=r"\.npy: .*; delete it to make it anew"):
        Step2Stage(build(), rank=0)


def test_a_full_disk_leaves_nothing(build: Any, tmp_path: Path) -> None:
    with files_limited_to(2000), pytest.raises(OutputError, match=r"\.npy: can't be written"):
        Step2Stage(build(), rank=0)
    assert not list((tmp_path / "cache").iterdir())
