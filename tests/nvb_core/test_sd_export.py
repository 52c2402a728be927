from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from nvb_core.adapted import adapted_model
from nvb_core.backbone import Base, read_base
from nvb_core.checkpoint import load_model, save_model
from nvb_core.config import MINI, ModelConfig, ScheduleConfig
from nvb_core.errors import ConfigError, OccupiedError
from nvb_core.model import NVBModel
from nvb_core.sd_export import write_diffusers_folder, write_single_file
from tests.nvb_core.test_adapted import CONFIG, predict
from tests.nvb_core.test_backbone import PRESETS, States, folder, single_file, states
from tests.nvb_core.test_lora import stir

__all__ = ["states"]
V_ZERO_SNR = ScheduleConfig(prediction_type="v_prediction", zero_terminal_snr=True, timestep_spacing="trailing")


@pytest.fixture(params=[CONFIG, replace(CONFIG, schedule=V_ZERO_SNR)], ids=["epsilon", "v"])
def merged(request: pytest.FixtureRequest, states: list[States], tmp_path: Path) -> NVBModel:
    """A trained model with its adapters merged."""
    config: ModelConfig = request.param
    base_path = folder(tmp_path / "base", states[1], {"prediction_type": config.schedule.prediction_type})
    model = adapted_model(Base(config, *states[1]))
    torch.manual_seed(0)
    stir(model.unet)
    save_model(model, tmp_path / "difference.safetensors", {"step1": {"steps": 5}})
    return load_model(tmp_path / "difference.safetensors", base=base_path)


def test_diffusers_reads_the_folder(merged: NVBModel, tmp_path: Path) -> None:
    expected = predict(merged)
    write_diffusers_folder(merged, tmp_path / "out", torch.float32)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet", local_files_only=True)
    vae = AutoencoderKL.from_pretrained(tmp_path / "out", subfolder="vae", local_files_only=True)
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler", local_files_only=True)
    merged.unet = unet.eval()
    torch.testing.assert_close(predict(merged), expected)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor
        torch.testing.assert_close(latents, merged.vae.encode(images))
    assert scheduler.config.prediction_type == merged.config.schedule.prediction_type
    assert scheduler.config.rescale_betas_zero_snr == merged.config.schedule.zero_terminal_snr


@pytest.mark.parametrize("single", [True, False], ids=["single", "folder"])
def test_what_is_written_reads_as_a_base(merged: NVBModel, tmp_path: Path, single: bool) -> None:
    state = {name: tensor.clone() for name, tensor in merged.unet.state_dict().items()}
    path = tmp_path / ("out.safetensors" if single else "out")
    (write_single_file if single else write_diffusers_folder)(merged, path, torch.float32)
    base = read_base(path, None, (CONFIG,))
    assert base.config.schedule == merged.config.schedule
    assert base.unet.keys() == state.keys()
    assert all(torch.equal(base.unet[name], tensor) for name, tensor in state.items())


def test_a_single_file_has_the_originals_names_and_shapes(
    merged: NVBModel, states: list[States], tmp_path: Path
) -> None:
    write_single_file(merged, tmp_path / "out.safetensors", torch.float16)
    original = load_file(single_file(tmp_path / "original.safetensors", states[1], CONFIG))
    written = load_file(tmp_path / "out.safetensors")
    shapes = {name: t.shape for name, t in original.items() if not name.startswith("cond_stage_model.")}
    assert {n: t.shape for n, t in written.items() if t.numel()} == shapes
    assert {t.dtype for t in written.values() if t.numel()} == {torch.float16}
    says_v = merged.config.schedule.prediction_type == "v_prediction"
    assert {n for n, t in written.items() if not t.numel()} == ({"v_pred", "ztsnr"} if says_v else set())


def test_a_folder_of_somebody_else_stays(merged: NVBModel, tmp_path: Path) -> None:
    before = (tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    with pytest.raises(OccupiedError, match="did not leave"):
        write_diffusers_folder(merged, tmp_path / "base", torch.float32)
    assert (tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before
    write_diffusers_folder(merged, tmp_path / "out", torch.float32)
    write_diffusers_folder(merged, tmp_path / "out", torch.float32)  # its own is replaced


@pytest.mark.parametrize("write", [write_single_file, write_diffusers_folder])
def test_networks_of_our_own_are_refused(tmp_path: Path, write: object) -> None:
    with torch.device("meta"):
        model = NVBModel(MINI)
    with pytest.raises(ConfigError, match="mini isn't built on Stable Diffusion"):
        write(model, tmp_path / "out", torch.float32)  # type: ignore[operator]
    assert not (tmp_path / "out").exists()


def test_presets_cover_both_versions() -> None:
    assert [config.name for config in PRESETS] == ["sd15", "sd21"]
