"""`nvb-face merge`, `export` and `render --base`: from a difference on disk to files that others read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core.adapted import adapted_model
from nvb_core.backbone import Base, read_base
from nvb_core.checkpoint import load_model, save_model
from nvb_core.cli import export, info, merge, render
from nvb_core.errors import CheckpointError, ConfigError, OccupiedError
from tests.nvb_core.test_adapted import CONFIG, predict
from tests.nvb_core.test_backbone import States, single_file, states
from tests.nvb_core.test_lora import stir

__all__ = ["states"]


@pytest.fixture
def base(states: list[States], tmp_path: Path) -> Path:
    return single_file(tmp_path / "base.safetensors", states[1], CONFIG)


@pytest.fixture
def weights(states: list[States], tmp_path: Path) -> Path:
    model = adapted_model(Base(CONFIG, *states[1]))
    torch.manual_seed(0)
    stir(model.unet)
    save_model(model, tmp_path / "difference.safetensors", {"step1": {"steps": 5}}, license="CC-BY-4.0")
    return tmp_path / "difference.safetensors"


def test_merge(base: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "complete.safetensors"
    arguments = ["--weights", str(weights), "--base", str(base), "--out", str(out), "--dtype", "fp32"]
    assert merge.main(arguments) == 0
    complete = load_model(out)
    torch.testing.assert_close(predict(complete), predict(load_model(weights, base=base)))
    assert complete.metadata["training"] == {"step1": {"steps": 5}}
    assert complete.metadata["license"] == "CC-BY-4.0"
    with pytest.raises(ConfigError, match="complete already"):
        merge.main(["--weights", str(out), "--base", str(base), "--out", str(tmp_path / "again.safetensors")])


def test_inputs_are_never_replaced(base: Path, weights: Path, tmp_path: Path) -> None:
    contents = {path: path.read_bytes() for path in (base, weights)}
    arguments = ["--weights", str(weights), "--base", str(base)]
    for out in (base, weights):
        for run in (merge.main, lambda argv: export.main([*argv, "--format", "single"])):
            with pytest.raises(OccupiedError, match=rf"{out.name}: the result is made from it; choose another --out"):
                run([*arguments, "--out", str(out)])
    assert {path: path.read_bytes() for path in contents} == contents
    part = tmp_path / "sd/unet/diffusion_pytorch_model.safetensors"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"somebody's")
    with pytest.raises(OccupiedError, match="the result is made from it"):
        merge.main(["--weights", str(weights), "--base", str(tmp_path / "sd"), "--out", str(part)])


@pytest.mark.parametrize("out", [".", "/", ""])
def test_folders_are_no_files(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--weights", str(weights), "--base", "none.safetensors"]  # which is never read
    for run in (merge.main, lambda argv: export.main([*argv, "--format", "single"])):
        with pytest.raises(ConfigError, match=r"is a folder; name a \.safetensors file"):
            run([*arguments, "--out", out or str(tmp_path)])


def test_export_before_and_after_merging(base: Path, weights: Path, tmp_path: Path) -> None:
    complete, first, second = (tmp_path / name for name in ("c.safetensors", "first", "second.safetensors"))
    merge.main(["--weights", str(weights), "--base", str(base), "--out", str(complete), "--dtype", "fp32"])
    assert export.main(["--weights", str(weights), "--base", str(base), "--out", str(first), "--dtype", "fp32"]) == 0
    export.main(["--weights", str(complete), "--out", str(second), "--format", "single", "--dtype", "fp32"])
    one, other = (read_base(path, "epsilon", (CONFIG,)) for path in (first, second))
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint()["vae"] == read_base(base, "epsilon", (CONFIG,)).fingerprint()["vae"]


def test_export_needs_the_base(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="name them with --base"):
        export.main(["--weights", str(weights), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_render_on_a_base(base: Path, weights: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (70, 70, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    arguments = [str(tmp_path / "photo.png"), "--weights", str(weights), "--out", str(tmp_path / "out"), "--center"]
    arguments += ["--steps", "2", "--no-turntable", "--yaw", "0", "--device", "cpu"]
    with pytest.raises(CheckpointError, match="name them with --base"):
        render.main(arguments)
    assert not (tmp_path / "out").exists()
    assert render.main([*arguments, "--base", str(base)]) == 0
    assert len(list((tmp_path / "out" / "views").glob("*.png"))) == 1


def test_info_of_a_difference(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main(["--weights", str(weights), "--json"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["base_model"] == "sd21"
    assert set(description["base_fingerprint"]) == {"unet", "vae"}
    info.main(["--weights", str(weights)])
    assert "base's unet" in capsys.readouterr().out
