from __future__ import annotations

import hashlib
import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from nvb_core import cli
from nvb_core.checkpoint import save_model
from nvb_core.cli.info import main, print_tables
from nvb_core.config import PRESETS, tiny_config
from nvb_core.denoiser import build_unet
from nvb_core.errors import CheckpointError, ConfigError
from nvb_core.flops import FlopCounts, count_flops
from nvb_core.model import NVBModel

TRAINING = {"step1": {"steps": 1234, "minutes": 5.5, "options": {"note": "[red]as is[/red]", "\x1b[2Jkey": "a\x1bb"}}}
Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(NVBModel(tiny_config()), path, TRAINING, torch.float16)
    return path


@pytest.fixture(scope="module")
def flops() -> FlopCounts:
    return count_flops(tiny_config())


def described(capsys: Output, *argv: str) -> dict[str, Any]:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_of_a_checkpoint(weights: Path, flops: FlopCounts, capsys: Output) -> None:
    described_file = described(capsys, "--weights", str(weights), "--views", "3", "--steps", "7")
    model = NVBModel(tiny_config())
    total = sum(p.numel() for p in model.parameters())
    content = weights.read_bytes()
    assert described_file["file"] == {
        "path": str(weights),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "values": {"F16": total, "F32": sum(b.numel() for b in model.buffers())},
    }
    assert described_file["license"] == "Apache-2.0"
    assert described_file["training"] == TRAINING
    assert described_file["config"] == json.loads(json.dumps(tiny_config().to_dict()))
    parts = described_file["parameters"]
    assert parts["total"] == total == sum(count for name, count in parts.items() if name != "total")
    assert parts["unet"] == sum(p.numel() for p in model.unet.parameters())
    assert parts["view.volume"] == sum(p.numel() for p in model.view.volume.parameters())
    assert described_file["flops"] == {
        "per_face_step": flops.per_face_step,
        "per_view_step": flops.per_view_step,
        "run": flops.total(views=3, steps=7),
        "stages": vars(flops),
    }
    assert described_file["run"] == {"views": 3, "steps": 7}


def test_tables_of_a_checkpoint(
    weights: Path, flops: FlopCounts, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["--weights", str(weights)]) == 0
    shown = capsys.readouterr().out
    for text in (
        str(weights),
        hashlib.sha256(weights.read_bytes()).hexdigest(),
        "Apache-2.0",
        "F16",
        "step1.steps",
        "1234",
        "[red]as is[/red]",
        "step1.options.?[2Jkey",
        "a?b",
        "encoder.channel_mult",
        "(1, 2, 2, 2)",
        "view.camera_predictor",
        "per face and step",
        f"{flops.per_face_step / 1e9:,.3f}",
        "1 face, 8 views, 50 steps",
        f"{flops.total(8, 50) / 1e9:,.3f}",
    ):
        assert text in shown


def test_preset_needs_no_weights(capsys: Output) -> None:
    description = described(capsys, "--preset", "mini")
    assert description["config"] == json.loads(json.dumps(PRESETS["mini"].to_dict()))
    with torch.device("meta"):
        unet = build_unet(PRESETS["mini"])
    assert description["parameters"]["unet"] == sum(p.numel() for p in unet.parameters())
    assert description["run"] == {"views": 8, "steps": 2}
    assert "file" not in description
    assert "training" not in description
    print_tables(description)
    shown = capsys.readouterr().out
    assert "Configuration" in shown
    assert "Training" not in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--weights", "w.safetensors", "--preset", "mini"], "--weights and --preset exclude each other"),
        (["--preset", "mini", "--views", "0"], "--views is 0, must be at least 1"),
        (["--preset", "mini", "--steps", "-1"], "steps is -1, must be in 1–1000"),
    ],
)
def test_bad_options(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(argv)


def test_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        main(["--weights", str(path)])
    with pytest.raises(CheckpointError, match="File name too long"):
        main(["--weights", str(tmp_path / ("x" * 256))])
    path.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        main(["--weights", str(path)])


def test_bad_file_is_one_line_and_exit_code_2(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("info", "nvb_core.cli.info:main", cli.GROUP)]
    monkeypatch.setattr(cli.metadata, "entry_points", lambda group: entries)
    assert cli.main(["info", "--weights", str(tmp_path / "none.safetensors")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nvb-face: error: ")
    assert captured.err.count("\n") == 1
