from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nvb_core.autoencoder import Autoencoder
from nvb_core.backbone import Base, read_base
from nvb_core.config import SD15, SD21, ModelConfig
from nvb_core.denoiser import build_unet
from nvb_core.errors import CheckpointError, ConfigError
from nvb_core.sd_layout import to_original_shape, unet_names, vae_names


def shrunken(config: ModelConfig, channels: int) -> ModelConfig:
    """Stable Diffusion's topology with a few channels a block; the context's width still tells the versions apart."""
    return replace(
        config,
        encoder=replace(config.encoder, base_channels=2, out_channels=channels, norm_groups=2),
        view=replace(config.view, volume_heads=2, camera_predictor_heads=2),
        unet=replace(
            config.unet,
            block_out_channels=(4, 8, 8, 8),
            attention_heads=(2, 2, 2, 2),
            norm_groups=2,
            layers_per_block=1,
        ),
        vae=replace(config.vae, block_out_channels=(2, 4, 4, 4), norm_groups=2, layers_per_block=1),
    )


PRESETS = (shrunken(SD15, 6), shrunken(SD21, 10))
States = tuple[dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(scope="module")
def states() -> list[States]:
    torch.manual_seed(0)
    return [(build_unet(c).state_dict(), Autoencoder(c.vae).kl.state_dict()) for c in PRESETS]


def single_file(
    path: Path, states: States, config: ModelConfig, dtype: torch.dtype = torch.float32, **header: str
) -> Path:
    unet, vae = states
    tensors = {name: unet[key].to(dtype) for key, name in unet_names(unet, config.unet).items()}
    for key, name in vae_names(vae, config.vae).items():
        tensors[name] = to_original_shape(key, vae[key]).to(dtype).contiguous()
    tensors["cond_stage_model.transformer.text_model.final_layer_norm.weight"] = torch.ones(3)
    save_file(tensors, path, metadata=header or None)
    return path


def folder(path: Path, states: States, scheduler: dict[str, Any], rename: Callable[[str], str] = str) -> Path:
    for part, tensors in zip(("unet", "vae"), states, strict=True):
        (path / part).mkdir(parents=True)
        save_file({rename(k): v for k, v in tensors.items()}, path / part / "diffusion_pytorch_model.safetensors")
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return path


def equal(base: Base, states: States) -> bool:
    return all(
        found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
        for found, wanted in zip((base.unet, base.vae), states, strict=True)
    )


@pytest.mark.parametrize("index", [0, 1], ids=["sd15", "sd21"])
def test_every_form_of_a_base_reads_alike(tmp_path: Path, states: list[States], index: int) -> None:
    config = PRESETS[index]
    file = single_file(tmp_path / "model.safetensors", states[index], config)
    first = read_base(file, "epsilon", PRESETS)
    second = read_base(folder(tmp_path / "model", states[index], {"prediction_type": "epsilon"}), None, PRESETS)
    assert first.config == second.config == config
    assert equal(first, states[index])
    assert equal(second, states[index])
    assert first.fingerprint() == second.fingerprint()


def test_old_folders_name_the_autoencoders_attention_otherwise(tmp_path: Path, states: list[States]) -> None:
    def old(name: str) -> str:
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if "mid_block.attentions" in name and "transformer" not in name:
                name = name.replace(new, before)
        return name

    path = folder(tmp_path / "model", states[0], {"prediction_type": "epsilon"}, old)
    assert equal(read_base(path, None, PRESETS), states[0])


def test_the_fingerprint_is_of_the_weights_alone(tmp_path: Path, states: list[States]) -> None:
    def fingerprint(name: str, states: States, **changes: Any) -> str:
        path = single_file(tmp_path / f"{name}.safetensors", states, PRESETS[0], **changes)
        return read_base(path, "epsilon", PRESETS).fingerprint()

    first = fingerprint("full", states[0])
    assert fingerprint("half", states[0], dtype=torch.float16) == first
    unet = {name: tensor.clone() for name, tensor in states[0][0].items()}
    unet["conv_in.bias"][0] += 0.01
    assert fingerprint("other", (unet, states[0][1])) != first


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"modelspec.architecture": "stable-diffusion-v1"}, "epsilon"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.prediction_type": "v"}, "v_prediction"),
    ],
)
def test_a_single_files_header_may_say_what_it_predicts(
    tmp_path: Path, states: list[States], header: dict[str, str], expected: str
) -> None:
    path = single_file(tmp_path / "m.safetensors", states[0], PRESETS[0], **header)
    base = read_base(path, None, PRESETS)
    assert base.config.schedule == replace(SD15.schedule, prediction_type=expected)
    other = "epsilon" if expected == "v_prediction" else "v_prediction"
    with pytest.raises(ConfigError, match=f"says that it predicts {expected}, not {other}"):
        read_base(path, other, PRESETS)  # type: ignore[arg-type]


def test_marker_tensors_say_v_and_zero_snr(tmp_path: Path, states: list[States]) -> None:
    unet, vae = states[0]
    tensors = {name: unet[key] for key, name in unet_names(unet, PRESETS[0].unet).items()}
    tensors |= {n: to_original_shape(k, vae[k]).contiguous() for k, n in vae_names(vae, PRESETS[0].vae).items()}
    save_file(tensors | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "m.safetensors")
    schedule = read_base(tmp_path / "m.safetensors", None, PRESETS).config.schedule
    assert schedule.prediction_type == "v_prediction"
    assert schedule.zero_terminal_snr
    assert schedule.timestep_spacing == "trailing"


def test_nothing_is_guessed(tmp_path: Path, states: list[States]) -> None:
    for path in (
        single_file(tmp_path / "m.safetensors", states[0], PRESETS[0]),
        folder(tmp_path / "m", states[0], {"beta_start": 0.00085}),
    ):
        with pytest.raises(ConfigError, match=r"doesn't say .* give --prediction-type epsilon"):
            read_base(path, None, PRESETS)
        assert read_base(path, "v_prediction", PRESETS).config.schedule.prediction_type == "v_prediction"


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(CheckpointError) as error:
        read_base(path, "epsilon", PRESETS)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_other_models_are_refused(tmp_path: Path, states: list[States]) -> None:
    unet, vae = states[0]
    save_file({"model.diffusion_model.label_emb.0.0.weight": torch.zeros(2)}, tmp_path / "xl.safetensors")
    refused(tmp_path / "xl.safetensors", "xl.safetensors", "not a Stable Diffusion 1.x or 2.x model")
    inpainting = unet | {"conv_in.weight": torch.zeros(4, 9, 3, 3)}
    path = single_file(tmp_path / "inpainting.safetensors", (inpainting, vae), PRESETS[0])
    refused(path, "takes 9 channels", "inpainting")
    unclip = unet | {"class_embedding.linear_1.weight": torch.zeros(2)}
    refused(folder(tmp_path / "unclip", (unclip, vae), {}), "takes more than text")
    path = single_file(tmp_path / "plain.safetensors", states[0], PRESETS[0])
    save_file(
        load_file(path) | {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(2)}, tmp_path / "u.safetensors"
    )
    refused(tmp_path / "u.safetensors", "takes more than text")
    (tmp_path / "old.safetensors").write_bytes(b"\x80\x02}q\x00.")
    refused(tmp_path / "old.safetensors", "a pickle")
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path / ("x" * 256), "File name too long")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"beta_schedule": "linear"}, "beta_schedule of its scheduler is 'linear', not 'scaled_linear'"),
        ({"beta_end": 0.02}, "beta_end of its scheduler is 0.02, not 0.012"),
        ({"num_train_timesteps": 500}, "num_train_timesteps of its scheduler is 500, not 1000"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas of its scheduler is [0.1, 0.2], not None"),
        ({"prediction_type": ["epsilon"]}, "prediction_type ['epsilon'] of its scheduler"),
        ({"rescale_betas_zero_snr": True}, "its last timestep is pure noise, which epsilon can't do"),
    ],
)
def test_other_schedules_are_refused(
    tmp_path: Path, states: list[States], scheduler: dict[str, Any], message: str
) -> None:
    stable_diffusions = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    path = folder(tmp_path / "m", states[0], {**stable_diffusions, "num_train_timesteps": 1000, **scheduler})
    refused(path, str(path), message)


def test_a_broken_base_is_refused_by_file_and_tensor(tmp_path: Path, states: list[States]) -> None:
    unet, vae = states[0]
    lacking = {name: tensor for name, tensor in unet.items() if name != "time_embedding.linear_1.bias"}
    folder(tmp_path / "lacking", (lacking, vae), {"prediction_type": "epsilon"})
    refused(tmp_path / "lacking", "tensor time_embedding.linear_1.bias is missing")
    short = vae | {"quant_conv.bias": torch.zeros(3)}
    path = single_file(tmp_path / "short.safetensors", (unet, short), PRESETS[0])
    refused(path, "first_stage_model.quant_conv.bias has shape (3,), expected (8,)")
    nan = unet | {"conv_out.bias": torch.full((4,), float("nan"))}
    path = single_file(tmp_path / "nan.safetensors", (nan, vae), PRESETS[0])
    refused(path, "model.diffusion_model.out.2.bias holds NaN")
    for dtype in (torch.float8_e4m3fn, torch.int8):
        path = single_file(tmp_path / "small.safetensors", states[0], PRESETS[0], dtype)
        refused(path, f"is of {dtype}, expected float32, float16 or bfloat16")
    (tmp_path / "lacking" / "scheduler" / "scheduler_config.json").write_text("{")
    refused(tmp_path / "lacking", "scheduler_config.json: not readable as JSON")
