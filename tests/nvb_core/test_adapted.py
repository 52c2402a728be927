from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nvb_core.adapted import adapted_model, difference, load_adapted, load_without_base
from nvb_core.backbone import Base, read_base
from nvb_core.checkpoint import load_model, read_metadata, save_model
from nvb_core.config import tiny_config
from nvb_core.errors import CheckpointError, ConfigError
from nvb_core.lora import is_trained
from nvb_core.model import NVBModel
from tests.nvb_core.test_backbone import PRESETS, States, folder, single_file, states
from tests.nvb_core.test_lora import stir

__all__ = ["states"]
CONFIG = replace(PRESETS[1], image_size=64)


@pytest.fixture(scope="module")
def base_path(states: list[States], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return single_file(tmp_path_factory.mktemp("base") / "base.safetensors", states[1], CONFIG, dtype=torch.float16)


@pytest.fixture(scope="module")
def base(base_path: Path) -> Base:
    return read_base(base_path, "epsilon", (CONFIG,))


@pytest.fixture
def trained(base: Base) -> NVBModel:
    """As after some training: nothing at its starting value."""
    torch.manual_seed(1)
    model = adapted_model(base)
    stir(model.unet)
    for part in (model.encoder, model.view, model.context):
        for parameter in part.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def path(trained: NVBModel, tmp_path: Path) -> Path:
    save_model(trained, tmp_path / "difference.safetensors", {"step1": {"steps": 3}})
    return tmp_path / "difference.safetensors"


@torch.no_grad()
def predict(model: NVBModel) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    latents, timesteps = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([10, 600])
    features = model.encoder(torch.randn(2, 3, 64, 64, generator=generator), timesteps)
    return model.unet(latents, timesteps, model.context(features)).sample


def test_an_untrained_model_predicts_as_its_base(base: Base) -> None:
    model = adapted_model(base)
    plain = NVBModel(base.config)
    plain.unet.load_state_dict(base.unet)
    context = torch.randn(1, 4, base.config.channels)
    latents, timesteps = torch.randn(1, 4, 8, 8), torch.tensor([400])
    with torch.no_grad():
        expected = plain.unet(latents, timesteps, context).sample
        torch.testing.assert_close(model.unet(latents, timesteps, context).sample, expected)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    plain.vae.kl.load_state_dict(base.vae)
    with torch.no_grad():
        torch.testing.assert_close(model.vae.encode(images), plain.vae.encode_raw(images) * 0.18215)
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_what_trains(base: Base) -> None:
    model = adapted_model(base)
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        expected = part != "vae" and (part != "unet" or is_trained(rest))
        assert parameter.requires_grad == expected, name


def test_training_leaves_the_base_in_memory_alone(base: Base) -> None:
    before = {name: tensor.clone() for name, tensor in base.unet.items()}
    stir(adapted_model(base).unet)
    assert all(torch.equal(base.unet[name], tensor) for name, tensor in before.items())


def test_only_the_difference_is_stored(trained: NVBModel, path: Path) -> None:
    names = set(load_file(path))
    assert {name.partition(".")[0] for name in names} == {"encoder", "view", "context", "unet"}
    of_unet = {name for name in names if name.startswith("unet.")}
    assert all(".lora_A.weight" in n or ".lora_B.weight" in n or ".attn2." in n for n in of_unet)
    assert names == set(difference(trained))
    header = read_metadata(path)
    assert header["base_model"] == "sd21"
    assert header["base_fingerprint"] == trained.metadata["base_fingerprint"]


def test_adapters_come_back_exactly(trained: NVBModel, path: Path, base_path: Path) -> None:
    again = load_adapted(path, base_path)
    state, loaded = trained.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[name], loaded[name]) for name in state)


def test_a_loaded_model_is_merged_and_complete(trained: NVBModel, path: Path, base_path: Path, tmp_path: Path) -> None:
    merged = load_model(path, base=base_path)
    torch.testing.assert_close(predict(merged), predict(trained), rtol=1e-4, atol=1e-5)
    assert merged.config == replace(trained.config, base_model="none")
    assert not any(parameter.requires_grad for parameter in merged.parameters())
    save_model(merged, tmp_path / "complete.safetensors", merged.metadata["training"])
    complete = load_model(tmp_path / "complete.safetensors")
    torch.testing.assert_close(predict(complete), predict(merged))
    assert complete.metadata["base_model"] == "none"


def test_any_file_with_the_same_weights_is_the_base(
    trained: NVBModel, path: Path, states: list[States], tmp_path: Path
) -> None:
    half = tuple({name: tensor.half() for name, tensor in part.items()} for part in states[1])
    other = folder(tmp_path / "folder", half, {"prediction_type": "epsilon"})  # type: ignore[arg-type]
    torch.testing.assert_close(predict(load_model(path, base=other)), predict(trained), rtol=1e-4, atol=1e-5)


def test_another_base_is_refused(path: Path, states: list[States], tmp_path: Path) -> None:
    unet, vae = states[1]
    changed = {**vae, "encoder.conv_in.bias": vae["encoder.conv_in.bias"] + 0.1}
    other = single_file(tmp_path / "other.safetensors", (unet, changed), CONFIG, dtype=torch.float16)
    with pytest.raises(CheckpointError, match=r"other\.safetensors: isn't the base .*other autoencoder weights"):
        load_model(path, base=other)


def test_a_base_of_another_kind_is_refused(path: Path, states: list[States], tmp_path: Path) -> None:
    other = single_file(tmp_path / "sd15.safetensors", states[0], PRESETS[0])
    with pytest.raises(CheckpointError, match="not a Stable Diffusion"):
        load_model(path, base=other)


def test_a_base_must_be_named(path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"difference to sd21 weights; name them with --base"):
        load_model(path)


def test_a_complete_model_takes_no_base(tmp_path: Path, base_path: Path) -> None:
    save_model(NVBModel(tiny_config()), tmp_path / "tiny.safetensors", {})
    with pytest.raises(CheckpointError, match="complete model; leave --base out"):
        load_model(tmp_path / "tiny.safetensors", base=base_path)
    with pytest.raises(ConfigError, match="complete model"):
        adapted_model(replace_config(base_path))


def replace_config(base_path: Path) -> Base:
    found = read_base(base_path, "epsilon", (CONFIG,))
    return Base(replace(found.config, base_model="none"), found.unet, found.vae)


def test_our_parts_load_without_a_base(trained: NVBModel, path: Path) -> None:
    model, of_unet = load_without_base(path)
    images, timesteps = torch.randn(1, 3, 64, 64), torch.tensor([3])
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(images, timesteps), trained.encoder(images, timesteps))
    state = trained.unet.state_dict()
    assert of_unet.keys() == {name for name in state if is_trained(name)}
    assert all(torch.equal(tensor, state[name]) for name, tensor in of_unet.items())
    assert next(model.unet.parameters()).is_meta


@pytest.mark.parametrize("wrong", ["missing", "unexpected"])
def test_a_difference_is_read_strictly(path: Path, base_path: Path, wrong: str) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    name = next(n for n in tensors if "lora_B" in n)
    if wrong == "missing":
        del tensors[name]
    else:
        name = "unet.conv_in.weight"
        tensors[name] = torch.zeros(2)
    save_file(tensors, path, metadata=header)
    with pytest.raises(CheckpointError, match=f"tensor {name} is {wrong}"):
        load_model(path, base=base_path)


def test_a_difference_needs_its_fingerprint(path: Path, base_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = {k: v for k, v in file.metadata().items() if k != "base_fingerprint"}
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(CheckpointError, match="doesn't say to which weights"):
        load_model(path, base=base_path)
