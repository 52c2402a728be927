from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nvb_core.checkpoint import save_model
from nvb_core.config import tiny_config
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel
from training.batches import RestorationBatch
from training.command import run_command
from training.export import start_model
from training.options import VAEOptions
from training.state import read_progress
from training.step1 import DenoisingTarget
from training.vae import ImageBatch, VAENetwork, VAEStage, complete_preset, denoised, measure_latents, train

pytestmark = pytest.mark.usefixtures("accelerate_reset", "tiny_preset")

LAUNCH = """
import runpy, sys
from nvb_core.config import PRESETS, tiny_config
PRESETS["tiny"] = tiny_config()
runpy.run_module("training.vae", run_name="__main__", alter_sys=True)
"""


def options(out: Path, faces: Path, **changes: Any) -> VAEOptions:
    settings: dict[str, Any] = {"preset": "tiny", "steps": 4, "batch_size": 2, "log_every": 1, "grid_every": 0}
    return VAEOptions(out=out, data=(faces,), **{**settings, "warmup_steps": 2, "precision": "no", **changes})


def flags(out: Path, faces: Path, *extra: str) -> list[str]:
    """`options` as command line arguments."""
    fixed = "--preset tiny --batch-size 2 --log-every 1 --grid-every 0 --warmup-steps 2 --precision no"
    return ["--out", str(out), "--data", str(faces), *fixed.split(), *extra]


def losses(out: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def test_resume_after_kill_9_continues_the_same_curve(tmp_path: Path, faces: Path) -> None:
    """A process is killed some time after a state was saved; the resumed run's losses are an uninterrupted run's."""
    steps = 30
    arguments = flags(tmp_path / "killed", faces, "--steps", str(steps), "--save-minutes", "0")
    command = [sys.executable, "-c", LAUNCH, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    state = tmp_path / "killed" / "state.safetensors"
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while read_progress(state).step < 5 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        error = process.stderr.read().decode() if process.stderr else ""
    assert process.returncode == -signal.SIGKILL, error
    assert 5 <= read_progress(state).step < steps

    train(options(tmp_path / "killed", faces, steps=steps))
    train(options(tmp_path / "whole", faces, steps=steps))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == steps
    killed, whole = (load_file(tmp_path / name / "state.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(killed[key], whole[key]) for key in whole)


def test_trains_the_autoencoder_alone_and_exports_its_average(tmp_path: Path, faces: Path) -> None:
    torch.manual_seed(0)
    before = NVBModel(tiny_config()).state_dict()
    assert train(options(tmp_path, faces, ema_decay=0.5, grid_every=4)) == 4
    after, state = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "state.safetensors")
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (not name.startswith("vae.")), name
    for name in (n.removeprefix("param.") for n in state if n.startswith("param.")):
        assert torch.equal(after[name], state[f"ema.{name}"])
        assert not torch.equal(after[name], state[f"param.{name}"])
    assert (tmp_path / "pictures" / "0000004.png").stat().st_size > 0


def test_latents_are_normalised_and_previewed() -> None:
    torch.manual_seed(0)
    vae = NVBModel(tiny_config()).vae
    images = torch.rand(12, 3, 1, 1).expand(-1, -1, 32, 32) * 2 - 1
    with torch.no_grad():
        measure_latents(vae, images)
        latents, again = vae.encode(images), vae.encode(images)
    assert torch.equal(latents, again)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-4, atol=1e-5)
    # The preview is the linear map of least squares: what it leaves has nothing to do with the latents.
    small = torch.nn.functional.avg_pool2d(images, 8)
    left = torch.einsum("rz,bzhw->brhw", vae.preview_weight, latents) + vae.preview_bias[:, None, None] - small
    torch.testing.assert_close(left.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    correlation = torch.einsum("brhw,bzhw->rz", left, latents) / left[:, 0].numel()
    torch.testing.assert_close(correlation, torch.zeros(3, 4), rtol=0, atol=1e-5)
    assert left.square().mean() < small.var()


def test_decoder_only_keeps_the_latents(tmp_path: Path, faces: Path) -> None:
    train(options(tmp_path / "first", faces))
    init = tmp_path / "first" / "model.safetensors"
    train(options(tmp_path / "second", faces, init=init, decoder_only=True, seed=1))
    first, second = start_model(init), start_model(tmp_path / "second" / "model.safetensors")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = first.vae.encode(images)
        assert torch.equal(latents, second.vae.encode(images))
        assert torch.equal(first.vae.preview(latents), second.vae.preview(latents))
        assert not torch.equal(first.vae.decode(latents), second.vae.decode(latents))


def test_more_latent_channels_start_from_what_is_known(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    stage = VAEStage(options(tmp_path, faces, init=tiny_checkpoint, latent_channels=6), rank=0)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    old = start_model(tiny_checkpoint).vae
    with torch.no_grad():
        torch.testing.assert_close(
            stage.model.vae.decode(stage.model.vae.encode(images)), old.decode(old.encode(images))
        )
    train(options(tmp_path, faces, init=tiny_checkpoint, latent_channels=6))
    assert start_model(tmp_path / "model.safetensors").config.vae.latent_channels == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_channels": 8}, "latent_channels is about .* --init"),
        ({"decoder_only": True}, "decoder_only is about .* --init"),
        ({"latent_channels": 8, "decoder_only": True, "init": Path("x")}, "give only one"),
        ({"latent_channels": -1}, "latent_channels is -1, must not be negative"),
        ({"strength": 0.0, "decoder_only": True}, "strength is 0.0, must be above 0"),
        ({"strength": 0.5}, "strength is about .* --decoder-only"),
        ({"adversarial_weight": -1.0}, "adversarial_weight is -1.0, must not be negative"),
        ({"denoised_share": 1.5}, "denoised_share is 1.5, must be in 0–1"),
        ({"denoised_share": 0.5}, "denoised_share needs the latents .* --decoder-only"),
    ],
)
def test_latents_are_kept_or_changed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(tmp_path, tmp_path, **changes)


def test_overfits_a_batch(overfit: Callable[..., Any], tmp_path: Path, faces: Path) -> None:
    stage = VAEStage(options(tmp_path, faces), rank=0)
    before, after = overfit(stage.network, stage.make_batch(0), steps=40, lr=3e-3)
    assert after["loss"] < 0.75 * before["loss"]
    assert after["psnr"] > before["psnr"] + 2


def test_loss_is_made_of_its_parts(tmp_path: Path, faces: Path) -> None:
    plan = options(tmp_path, faces, latent_noise=0.0, latent_weight=0.5, gradient_weight=2.0, square_weight=3.0)
    model = NVBModel(tiny_config())
    vae, images = model.vae, torch.rand(2, 3, 32, 32) * 2 - 1
    got = VAENetwork(model, plan)(ImageBatch(images), torch.Generator())
    raw = vae.encode_raw(images)
    assert got["l1"].item() == pytest.approx((vae.decode_raw(raw) - images).abs().mean().item(), rel=1e-5)
    square = (vae.decode_raw(raw) - images).square().mean()
    parts = got["l1"] + 2 * got["gradient"] + 3 * square + 0.5 * raw.square().mean()
    assert got["loss"].item() == pytest.approx(parts.item(), rel=1e-5)
    error = ((vae.decode_raw(raw) - images) / 2).square().mean().item()  # in pictures of range 1
    assert got["psnr"].item() == pytest.approx(-10 * math.log10(error), rel=1e-5)


SHARP: dict[str, Any] = {"decoder_only": True, "adversarial_weight": 0.5, "denoised_share": 0.5}


@pytest.fixture
def restoring_checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """The same tiny model, as step 1 would leave it."""
    path = tmp_path / "restoring.safetensors"
    save_model(start_model(tiny_checkpoint), path, {"vae": {"steps": 0}, "step1": {"steps": 0}})
    return path


def test_a_denoiser_that_isnt_trained_is_no_teacher(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"its denoiser isn't trained .* leave --denoised-share out"):
        VAEStage(options(tmp_path, faces, init=tiny_checkpoint, **SHARP), rank=0)


def test_a_discriminator_trains_along_and_is_left_behind(
    tmp_path: Path, faces: Path, restoring_checkpoint: Path
) -> None:
    plan = options(tmp_path / "whole", faces, init=restoring_checkpoint, validate_every=2, **SHARP)
    train(plan)
    before, after = load_file(restoring_checkpoint), load_file(tmp_path / "whole" / "model.safetensors")
    trained = ("vae.kl.decoder.", "vae.kl.post_quant_conv.")
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (not name.startswith(trained)), name
    assert before.keys() == after.keys()
    lines = [json.loads(line) for line in (tmp_path / "whole" / "loss.jsonl").read_text().splitlines()]
    assert all({"adversarial", "hinge", "slope", "psnr"} <= line.keys() for line in lines)
    assert {key for key in lines[-1] if key.startswith("fixed_")} == {
        "fixed_loss", "fixed_l1", "fixed_gradient", "fixed_psnr"
    }  # fmt: skip

    train(options(tmp_path / "parts", faces, init=restoring_checkpoint, **{**SHARP, "steps": 4, "max_minutes": 1e-9}))
    train(options(tmp_path / "parts", faces, init=restoring_checkpoint, **SHARP))
    whole, parts = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert any("discriminator" in name for name in whole)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_finished_run_is_exported_anew_at_another_strength(
    tmp_path: Path, faces: Path, tiny_checkpoint: Path
) -> None:
    train(options(tmp_path, faces, init=tiny_checkpoint, decoder_only=True))
    whole, state = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "state.safetensors")
    train(options(tmp_path, faces, init=tiny_checkpoint, decoder_only=True, strength=0.25))
    quarter, before = load_file(tmp_path / "model.safetensors"), load_file(tiny_checkpoint)
    assert any(not torch.equal(whole[name], before[name]) for name in whole)
    for name in whole:
        torch.testing.assert_close(quarter[name], 0.75 * before[name] + 0.25 * whole[name], rtol=1e-5, atol=1e-7)
    after = load_file(tmp_path / "state.safetensors")
    assert all(torch.equal(state[name], after[name]) for name in state)


def test_adversarial_share_grows_with_the_discriminators_skill(tmp_path: Path, faces: Path) -> None:
    network = VAENetwork(NVBModel(tiny_config()), options(tmp_path, faces, adversarial_weight=2.0, latent_weight=0.0))
    batch = ImageBatch(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert network.discriminator is not None
    last = network.discriminator.layers[-1]
    last.weight.data.zero_()
    last.bias.data.fill_(0.5)  # says of all pictures that they are rather true: no skill
    got = network(batch, torch.Generator().manual_seed(0))
    square = (10 ** (-got["psnr"] / 10)) * 4
    plain = got["l1"] + 0.5 * got["gradient"] + 2 * square
    assert (got["hinge"], got["adversarial"]) == (2, -0.5)
    torch.testing.assert_close(got["loss"], plain + got["hinge"] + got["slope"])
    with torch.no_grad():
        measured = network(batch, torch.Generator().manual_seed(0))
    assert measured.keys() == {"loss", "l1", "gradient", "psnr"}
    torch.testing.assert_close(measured["loss"], plain)


def test_denoised_latents_are_the_clean_ones_if_the_denoiser_is_right(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = start_model(tiny_checkpoint)
    model.vae.latent_mean.copy_(torch.arange(4.0))
    model.vae.latent_std.copy_(torch.tensor([0.5, 1, 2, 3]))
    lq, raw = torch.rand(3, 3, 32, 32), torch.randn(3, 4, 4, 4)
    seen: list[Tensor] = []

    class Oracle(torch.nn.Module):
        def forward(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Any:
            expected = model.context(model.encoder(lq, timesteps))
            torch.testing.assert_close(context, expected)
            seen.append(timesteps)
            signal = model_target.scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
            latents = (raw - model.vae.latent_mean[:, None, None]) / model.vae.latent_std[:, None, None]
            noise = (noisy - signal * latents) / (1 - signal.square()).sqrt()
            return SimpleNamespace(sample=signal * noise - (1 - signal.square()).sqrt() * latents)

    model_target = DenoisingTarget(model)
    monkeypatch.setattr(model, "unet", Oracle())
    torch.testing.assert_close(denoised(model, lq, raw, torch.Generator().manual_seed(1)), raw, rtol=1e-3, atol=1e-3)
    assert len(seen[0]) == 3


def test_only_a_share_of_the_latents_is_denoised(
    tmp_path: Path, faces: Path, restoring_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = options(tmp_path, faces, init=restoring_checkpoint, batch_size=4, latent_noise=0.0, **SHARP)
    stage = VAEStage(plan, rank=0)
    batch = stage.make_batch(0)
    assert isinstance(batch, RestorationBatch)
    assert not torch.equal(batch.lq, batch.target)
    decoded: list[Tensor] = []
    decode = stage.model.vae.decode_raw
    monkeypatch.setattr(stage.model.vae, "decode_raw", lambda raw: (decoded.append(raw), decode(raw))[1])
    stage.network(batch, torch.Generator().manual_seed(0))
    own = stage.model.vae.encode_raw(batch.target)
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(decoded[0], own, strict=True)]
    assert same == [False, False, True, True]


def test_batches_differ_by_index_and_are_the_same_in_every_process(tmp_path: Path, faces: Path) -> None:
    first, other = (VAEStage(options(tmp_path, faces), rank=rank) for rank in (0, 1))
    batches = [first.make_batch(0), first.make_batch(1), first.make_validation_batch(0)]
    assert torch.equal(other.make_batch(0).images, batches[0].images)
    assert not torch.equal(batches[0].images, batches[1].images)
    assert not torch.equal(batches[0].images, batches[2].images)
    assert batches[0].images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("name", ["sd21", "huge"])
def test_presets_without_an_autoencoder_of_their_own(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"preset '{name}' .* choose mini or tiny"):
        complete_preset(name)


def test_ctrl_c_ends_with_one_line(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_batch = VAEStage.make_batch

    def interrupted(self: VAEStage, index: int) -> ImageBatch:
        if index == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return make_batch(self, index)

    monkeypatch.setattr(VAEStage, "make_batch", interrupted)
    monkeypatch.setattr(sys, "argv", ["vae", *flags(tmp_path, faces, "--steps", "50")])
    assert run_command(VAEOptions, train, "training.vae") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "loading" not in line]
    assert lines == ["training.vae: interrupted; run the same command to go on"]
    assert 0 < read_progress(tmp_path / "state.safetensors").step < 50
    assert start_model(tmp_path / "model.safetensors").config.name == "tiny"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--data", "nowhere"), "nowhere/dataset.json: no such file"),
        (("--init", "nowhere.safetensors"), "nowhere.safetensors: no such file"),
        (("--preset", "sd21"), "preset 'sd21'"),
        (("--lr", "-1"), "lr is -1.0"),
    ],
)
def test_bad_options_end_with_one_line(
    tmp_path: Path,
    faces: Path,
    extra: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["vae", *flags(tmp_path / "out", faces, *extra)])
    assert run_command(VAEOptions, train, "training.vae") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("training.vae: error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_damaged_picture_ends_with_one_line(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "faces"
    (folder / "00000000").mkdir(parents=True)
    (folder / "dataset.json").write_bytes((faces / "dataset.json").read_bytes())
    (folder / "00000000" / "00.png").write_bytes(b"not a picture")
    monkeypatch.setattr(sys, "argv", ["vae", *flags(tmp_path / "out", folder)])
    assert run_command(VAEOptions, train, "training.vae") == 2
    assert "00000000/00.png: not a readable image" in capsys.readouterr().err.splitlines()[-1]
