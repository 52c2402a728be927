from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nvb_core.adapted import load_adapted
from nvb_core.backbone import read_base
from nvb_core.checkpoint import read_metadata
from nvb_core.config import tiny_config
from nvb_core.errors import CheckpointError, ConfigError
from nvb_core.model import NVBModel
from tests.nvb_core.test_encoder_init import vqgan
from training.export import MODEL_NAME, export_stage, git_revision, start_model
from training.options import Step1Options, Step2Options, VAEOptions
from training.state import Progress

DATA = (Path("/somewhere/data/heads"), Path("data/more"))


def test_record_grows_from_stage_to_stage(tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("vae", "step1", "step2")}
    export_stage(NVBModel(tiny_config()), "vae", Progress(7, 1.234), VAEOptions(out=runs["vae"], data=DATA))
    init = runs["vae"] / MODEL_NAME
    export_stage(start_model(init), "step1", Progress(8), Step1Options(out=runs["step1"], data=DATA, init=init))
    init = runs["step1"] / MODEL_NAME
    export_stage(start_model(init), "step2", Progress(9), Step2Options(out=runs["step2"], data=DATA, init=init))

    record = read_metadata(runs["step2"] / MODEL_NAME)["training"]
    assert [(name, record[name]["steps"]) for name in record] == [("vae", 7), ("step1", 8), ("step2", 9)]
    assert record["vae"]["minutes"] == 1.23
    assert record["vae"]["options"]["data"] == ["heads", "more"]
    assert record["vae"]["options"]["init"] is None
    assert record["step2"]["options"]["init"] == f"step1/{MODEL_NAME}"
    assert record["step2"]["options"]["views"] == 4
    assert "out" not in record["step2"]["options"]
    assert str(tmp_path) not in json.dumps(record)
    assert "/somewhere" not in json.dumps(record)


def test_licence(tmp_path: Path, shrunken_sd: Any) -> None:
    def exported(model: NVBModel, **more: Any) -> str:
        export_stage(model, "step1", Progress(1), Step1Options(out=tmp_path, data=DATA, init=tmp_path, **more))
        return read_metadata(tmp_path / MODEL_NAME)["license"]

    assert exported(NVBModel(tiny_config())) == "Apache-2.0"
    assert exported(NVBModel(tiny_config()), license="CC-BY-4.0") == "CC-BY-4.0"
    assert exported(start_model(tmp_path / MODEL_NAME)) == "CC-BY-4.0"
    on_base = start_model(shrunken_sd.init, shrunken_sd.base)
    del on_base.metadata["license"]
    assert exported(on_base) == "as the licences of its base model and of its training data allow"


def test_exporting_again_replaces_the_stage(tmp_path: Path) -> None:
    options = VAEOptions(out=tmp_path, data=DATA)
    model = NVBModel(tiny_config())
    for step in (3, 4):
        export_stage(model, "vae", Progress(step), options)
    assert read_metadata(tmp_path / MODEL_NAME)["training"]["vae"]["steps"] == 4
    assert [path.name for path in tmp_path.iterdir()] == [MODEL_NAME]


def test_options_of_a_run_that_trained_nothing_are_not_recorded(tmp_path: Path) -> None:
    def recorded(step: int, **changes: Any) -> dict[str, Any]:
        values = {"init": tmp_path / "init.safetensors", "decoder_only": True, **changes}
        export_stage(NVBModel(tiny_config()), "vae", Progress(step), VAEOptions(out=tmp_path, data=DATA, **values))
        options: dict[str, Any] = read_metadata(tmp_path / MODEL_NAME)["training"]["vae"]["options"]
        return options

    assert recorded(3, lr=0.1)["lr"] == 0.1
    again = recorded(3, lr=0.2, strength=0.5)
    assert (again["lr"], again["strength"]) == (0.1, 0.5)  # the export did heed the strength
    assert recorded(4, lr=0.2)["lr"] == 0.2
    (tmp_path / MODEL_NAME).write_bytes(b"broken")
    assert recorded(4, lr=0.3)["lr"] == 0.3


def test_start_model_is_frozen_and_float32(tiny_checkpoint: Path) -> None:
    model = start_model(tiny_checkpoint)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())


def test_start_model_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such file"):
        start_model(tmp_path / "none.safetensors")


def test_a_new_models_encoder_starts_from_an_autoencoders(
    tmp_path: Path, shrunken_sd: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_adapted(shrunken_sd.init, shrunken_sd.base).config
    monkeypatch.setattr("training.export.read_base", lambda path, kind: read_base(path, kind, (config,)))
    save_file(vqgan(config.encoder), tmp_path / "vqgan.safetensors")
    model = start_model(None, shrunken_sd.base, "epsilon", tmp_path / "vqgan.safetensors")
    assert torch.equal(model.encoder.stem.weight, vqgan(config.encoder)["encoder.conv_in.weight"])
    assert "numbers from vqgan.safetensors" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="encoder_init"):
        Step1Options(out=tmp_path, data=DATA, init=shrunken_sd.init, encoder_init=tmp_path / "vqgan.safetensors")


def test_git_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_revision() == "unknown" or len(git_revision().removesuffix("-dirty")) >= 12

    def no_git(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert git_revision() == "unknown"
