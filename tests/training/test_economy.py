from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nvb_core.config import tiny_config
from nvb_core.errors import ConfigError
from nvb_core.lora import is_trained
from nvb_core.model import NVBModel
from training.economy import economise, recompute_activations
from training.options import Step1Options, Step2Options
from training.shards import blocks
from training.step1 import Step1Stage
from training.step2 import Step2Stage

STAGES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "step1": (Step1Stage, Step1Options, {}),
    "step2": (Step2Stage, Step2Options, {"views": 3}),
}


@pytest.fixture(params=STAGES)
def build(request: pytest.FixtureRequest, tmp_path: Path, shrunken_sd: Any) -> Any:
    kind, options_type, settings = STAGES[request.param]

    def make(**changes: Any) -> Any:
        places = {"out": tmp_path, "data": (shrunken_sd.faces,), "init": shrunken_sd.init, "base": shrunken_sd.base}
        return kind(options_type(**{**places, "batch_size": 2, "precision": "no", **settings, **changes}), rank=0)

    return make


def loss_and_gradients(stage: Any) -> tuple[Tensor, dict[str, Tensor]]:
    loss = stage.network(stage.make_batch(0), torch.Generator().manual_seed(0))["loss"]
    trained = {name: p for name, p in stage.network.named_parameters() if p.requires_grad}
    return loss.detach(), dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def test_recomputed_activations_change_nothing(build: Any) -> None:
    loss, gradients = loss_and_gradients(build())
    again, recomputed = loss_and_gradients(build(gradient_checkpointing=True))
    torch.testing.assert_close(again, loss)
    assert recomputed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-6)


def test_every_kind_of_block_is_recomputed() -> None:
    model = NVBModel(tiny_config())
    forwards = {block: type(block).forward for block in blocks(nn.ModuleList([model.encoder, model.view]))}
    assert {type(block).__name__ for block in forwards} == {
        "TimeResBlock",
        "AttentionBlock",
        "VolumeBlock",
        "AggregatorBlock",
    }
    recompute_activations(model)
    assert all("forward" in vars(block) for block in forwards)
    assert all("mean_over_depth" in vars(block) for block in model.view.aggregator.blocks)
    calls: list[int] = []
    model.encoder.mid1.conv1.register_forward_hook(lambda *_: calls.append(1))
    features = model.encoder(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))
    assert len(calls) == 1
    features.sum().backward()
    assert len(calls) == 2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at its inputs' .grad
def test_compiled_networks_compute_the_same_under_the_same_names(tmp_path: Path) -> None:
    plain, compiled = NVBModel(tiny_config()), NVBModel(tiny_config())
    compiled.load_state_dict(plain.state_dict())
    economise(compiled, Step1Options(out=tmp_path, data=(tmp_path,), init=tmp_path, compile="eager"))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert [name for name, module in compiled.named_modules() if module._compiled_call_impl is not None] == [
        "encoder",
        "view.volume",
        "view.aggregator",
        "unet",
    ]
    image, t = torch.randn(1, 3, 32, 32), torch.tensor([5])
    torch.testing.assert_close(compiled.encoder(image, t), plain.encoder(image, t))


def test_half_base_leaves_what_trains_in_float32(build: Any) -> None:
    stage = build(half_base=True, precision="bf16")
    for name, parameter in stage.model.named_parameters():
        base = name.startswith("vae.") or (name.startswith("unet.") and not is_trained(name))
        assert parameter.dtype == (torch.bfloat16 if base else torch.float32), name
        assert not (base and parameter.requires_grad), name
    with Accelerator(cpu=True, mixed_precision="bf16").autocast():
        loss, gradients = loss_and_gradients(stage)
        expected, _ = loss_and_gradients(build())
        assert stage.picture().pixels.isfinite().all()
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert loss.item() == pytest.approx(expected.item(), rel=0.03)


def test_half_base_needs_a_base(tmp_path: Path) -> None:
    options = Step1Options(out=tmp_path, data=(tmp_path,), init=tmp_path, half_base=True, precision="bf16")
    with pytest.raises(ConfigError, match="half_base is about Stable Diffusion's weights"):
        economise(NVBModel(tiny_config()), options)
