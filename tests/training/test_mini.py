from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nvb_core.checkpoint import load_model, read_metadata, save_model
from nvb_core.config import PRESETS, tiny_config
from nvb_core.errors import ConfigError
from training import mini, step1, step2, vae
from training.data import read_index, write_index
from training.mini import SHARES, Options, main
from training.state import Progress, read_progress, save_state

pytestmark = pytest.mark.usefixtures("accelerate_reset")
MINUTES = 1e-4  # one step of each stage


@pytest.fixture(autouse=True)
def tiny_mini(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "mini", tiny_config())


@pytest.fixture
def stages_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the stages that were trained; each module's `train` still runs."""
    names: list[str] = []
    for module in (vae, step1, step2):
        name, train = module.__name__.split(".")[-1], module.train
        monkeypatch.setattr(module, "train", lambda options, n=name, t=train: names.append(n) or t(options))
    return names


def arguments(faces: Path, out: Path, *extra: str) -> list[str]:
    return ["--minutes", str(MINUTES), "--data", str(faces), "--out", str(out), *extra]


def test_shares_are_the_whole_time() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)


def test_four_stages_end_with_float16_weights(
    tmp_path: Path, faces: Path, stages_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights" / "tiny.safetensors"
    assert main(arguments(faces, tmp_path / "run", "--weights-out", str(weights))) == 0
    assert stages_run == ["vae", "step1", "step2", "vae"]
    out = capsys.readouterr().out
    assert f"nvb-face eval --weights {weights}" in out
    assert f"nvb-face render PHOTO --weights {weights}" in out

    trained, model = load_file(weights), load_model(weights)
    assert {trained[name].dtype for name, _ in model.named_parameters()} == {torch.float16}
    assert list(model.metadata["training"]) == ["vae", "step1", "step2", "decoder"]
    assert model.metadata["training"]["step2"]["options"]["loose_targets"] == mini.LOOSE_TARGETS
    full = load_file(tmp_path / "run" / "decoder" / "model.safetensors")
    for name, tensor in full.items():
        torch.testing.assert_close(trained[name].float(), tensor, rtol=1e-3, atol=1e-4)
    for name, share in SHARES.items():
        progress = read_progress(tmp_path / "run" / name / "state.safetensors")
        assert progress.budget_minutes == MINUTES * share
        assert progress.step == progress.planned_steps > 0

    stages_run.clear()
    weights.unlink()
    assert main(arguments(faces, tmp_path / "run", "--weights-out", str(weights))) == 0
    assert stages_run == []
    assert weights.exists()


def test_a_finished_run_is_not_passed_off_as_another(tmp_path: Path, faces: Path) -> None:
    main(arguments(faces, tmp_path))
    with pytest.raises(ConfigError, match=r"vae was trained with seed 0 \(not 7\); choose another --out"):
        main(arguments(faces, tmp_path, "--seed", "7"))
    more = tmp_path / "more"
    more.symlink_to(faces)
    with pytest.raises(ConfigError, match=r"vae was trained with data \['.*'\] \(not \['.*', 'more'\]\)"):
        main(["--minutes", str(MINUTES), "--data", str(faces), str(more), "--out", str(tmp_path)])
    trained = tmp_path / "vae" / "model.safetensors"
    model = load_model(trained)
    with torch.no_grad():
        model.vae.latent_mean += 1
    save_model(model, trained, model.metadata["training"])
    with pytest.raises(
        ConfigError, match=r"step1/state\.safetensors: this run started from another .*vae/model\.safetensors"
    ):
        main(arguments(faces, tmp_path))


def test_a_killed_run_goes_on_in_its_stage(
    tmp_path: Path, faces: Path, stages_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(step1.Step1Stage, "export", lambda self, progress: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # the state is saved, its model isn't
            main(arguments(faces, tmp_path))
    assert stages_run == ["vae", "step1"]
    stages_run.clear()
    main(arguments(faces, tmp_path))
    assert stages_run == ["step1", "step2", "vae"]
    record = read_metadata(tmp_path / "nvb-mini.safetensors")["training"]
    assert record["step1"]["steps"] == read_progress(tmp_path / "step1" / "state.safetensors").step


def test_another_budget_is_refused_before_anything_runs(tmp_path: Path, faces: Path, stages_run: list[str]) -> None:
    (tmp_path / "vae").mkdir()
    parameters = {"x": torch.nn.Parameter(torch.zeros(1))}
    optimizer = torch.optim.AdamW(parameters.values(), fused=True)
    parameters["x"].grad = torch.ones(1)
    optimizer.step()
    progress = Progress(step=5, minutes=1.0, planned_steps=50, budget_minutes=2.5)
    mini_state = tmp_path / "vae" / "state.safetensors"
    save_state(mini_state, progress, parameters, [torch.zeros(1)], optimizer)
    with pytest.raises(ConfigError, match=r"vae/state\.safetensors: planned for 2\.5 minutes"):
        main(arguments(faces, tmp_path))
    assert stages_run == []


def test_budget_of_seconds(tmp_path: Path, faces: Path) -> None:
    options = Options(minutes=0.1, data=(faces,), out=tmp_path)
    mini.train(options)
    for name, share in SHARES.items():
        progress = read_progress(tmp_path / name / "state.safetensors")
        assert progress.step == progress.planned_steps
        assert progress.minutes < 0.1 * share + 1, name  # a planned run ends, even on a busy machine


def test_missing_data_says_how_to_make_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "heads"
    with pytest.raises(ConfigError) as error:
        main(arguments(folder, tmp_path / "run"))
    assert str(error.value).startswith(f"{folder}: no face folder")
    assert str(error.value).endswith(f"nvb-face heads --count 1000 --views 8 --size 128 --margin 1.25 --out {folder}")
    assert not (tmp_path / "run").exists()


def test_too_few_views_are_told_at_once(tmp_path: Path, faces: Path, stages_run: list[str]) -> None:
    index = read_index(faces)
    write_index(tmp_path, index.paths, index.labels, index.paths, index.meta)  # every picture its own subject
    with pytest.raises(ConfigError, match=r"no subject .* has the 5 images with cameras that step 2 needs \(most: 1\)"):
        main(arguments(tmp_path, tmp_path / "run"))
    assert stages_run == []


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "1e7"])
def test_impossible_minutes(minutes: str, faces: Path) -> None:
    with pytest.raises(ConfigError, match="--minutes is"):
        main(["--minutes", minutes, "--data", str(faces)])


def test_help_documents_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for option in ("--minutes", "--data", "--out", "--weights-out", "--seed"):
        assert option in out


def test_step2_gets_the_folders_that_it_can_use(tmp_path: Path, faces: Path) -> None:
    index = read_index(faces)
    write_index(tmp_path, index.paths, torch.full_like(index.labels, math.nan), index.subjects, index.meta)
    assert mini._folders_with_views((tmp_path, faces), 4) == (faces,)
    with pytest.raises(ConfigError, match=r"step 2 needs \(most: 0\)"):
        mini._folders_with_views((tmp_path,), 4)
