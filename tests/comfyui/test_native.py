"""A model on top of Stable Diffusion through core's own loader and KSampler."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvb_core.adapted import adapted_model
from nvb_core.autoencoder import Autoencoder
from nvb_core.backbone import Base
from nvb_core.checkpoint import save_model
from nvb_core.config import SD15, SD21, ModelConfig
from nvb_core.denoiser import build_unet
from nvb_core.fit import FIT_STEPS
from nvb_core.sd_layout import unet_names
from tests.comfyui.client import Client
from tests.comfyui.graph import Graph, Node
from tests.comfyui.server import Server
from tests.comfyui.stages import load_photo, poses
from tests.nvb_core.test_backbone import shrunken, single_file
from tests.nvb_core.test_lora import stir

STEPS, SEED = 20, 7
SMALL = shrunken(SD15, 6)
CONFIG = replace(
    SMALL,
    image_size=64,
    # Core's U-Net has 32 groups in its normalisations, whatever its width.
    unet=replace(SMALL.unet, block_out_channels=(32, 32, 64, 64), norm_groups=32),
)


@dataclass(frozen=True)
class Files:
    base: Path
    other: Path


@pytest.fixture(scope="module")
def files(server: Server) -> Files:
    """A tiny Stable Diffusion, another one, and a checkpoint that was trained on the first."""
    torch.manual_seed(0)
    folder = server.base / "models" / "checkpoints"
    folder.mkdir(exist_ok=True)
    paths = [folder / "tiny-sd.safetensors", folder / "other-sd.safetensors"]
    states = [(build_unet(CONFIG).state_dict(), Autoencoder(CONFIG.vae).kl.state_dict()) for _ in paths]
    for path, state in zip(paths, states, strict=True):
        single_file(path, state, CONFIG)
    model = adapted_model(Base(CONFIG, *states[0]))
    stir(model.unet)
    save_model(model, server.base / "models" / "nvb_face" / "native.safetensors", {})
    return Files(*paths)


@dataclass(frozen=True)
class Native:
    loader: Node
    features: Node
    applied: Node


def native(graph: Graph, path: Path, yaws: tuple[float, ...] = (-20, 0, 30), predicts_v: bool = False) -> Native:
    """Photo to patched model and conditioning."""
    loader = graph.add("NVBLoader", checkpoint="native.safetensors")
    crops = graph.add("NVBAlignFace", load_photo(graph), faces="center")
    features = graph.add("NVBEncodeFace", loader, crops)
    grid = graph.add("NVBBuildGrid", loader, features.output("NVB_FEATURES"))
    views = graph.add("NVBSampleViews", grid, poses(graph, yaws))
    model = graph.add("NVBProbeSDModel", path=str(path), predicts_v=predicts_v)
    return Native(loader, views, graph.add("NVBApplyToModel", model, loader, views))


def ksampler(graph: Graph, applied: Node, latent: Node, **changes: object) -> Node:
    """Core's KSampler as the pack's DDIM does it."""
    positive, negative = (out for out in applied.all_outputs() if out.kind == "CONDITIONING")
    settings = {"seed": SEED, "steps": STEPS, "cfg": 1.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"}
    sockets = {"model": applied.output("MODEL"), "positive": positive, "negative": negative}
    return graph.add(
        "KSampler", latent_image=latent.output("LATENT"), **{**sockets, **settings, "denoise": 1.0, **changes}
    )


def test_ksampler_gives_what_our_own_sampler_gives(client: Client, graph: Graph, files: Files) -> None:
    stages = native(graph, files.base)
    latents = ksampler(graph, stages.applied, stages.applied)
    whole = graph.add("NVBLoader", checkpoint="native.safetensors", base=files.base.name)
    own = graph.add("NVBProbeOwnSampler", whole, stages.features, seed=SEED, steps=STEPS)
    graph.add("NVBProbeLatentDifference", first=own, second=latents)
    before = client.network_calls().get("DepthAggregator", 0)
    shown = client.run_well(graph.prompt).shown("NVBProbeLatentDifference")
    assert shown["shape"] == [3, 4, 8, 8]
    assert shown["difference"][0] < 1e-3
    # Three views in one call a step, here and there; and the one grid is fitted once.
    assert client.network_calls()["DepthAggregator"] - before == 2 * STEPS + FIT_STEPS


def test_cfg_above_1_asks_for_no_view_as_well(client: Client, graph: Graph, files: Files) -> None:
    stages = native(graph, files.base, yaws=(0, 30))
    first = ksampler(graph, stages.applied, stages.applied, steps=4)
    second = ksampler(graph, stages.applied, stages.applied, steps=4, cfg=3.0)
    graph.add("NVBProbeLatentDifference", first=first, second=second)
    assert client.run_well(graph.prompt).shown("NVBProbeLatentDifference")["difference"][0] > 1e-3


def test_image_to_image_stays_near_the_encoded_picture(client: Client, graph: Graph, files: Files) -> None:
    distances = []
    for denoise in (0.1, 1.0):
        graph = Graph(graph.object_info)
        stages = native(graph, files.base, yaws=(0,))
        whole = graph.add("NVBLoader", checkpoint="native.safetensors", base=files.base.name)
        photo = graph.add("ImageScale", load_photo(graph), width=64, height=64, upscale_method="area", crop="center")
        encoded = graph.add("VAEEncode", photo, whole.output("VAE"))
        graph.add(
            "NVBProbeLatentDifference",
            first=encoded,
            second=ksampler(graph, stages.applied, encoded, steps=10, denoise=denoise),
        )
        distances.append(client.run_well(graph.prompt).shown("NVBProbeLatentDifference")["difference"][0])
    assert 0 < distances[0] < 0.5 * distances[1]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "heun"])
def test_other_samplers_run(client: Client, graph: Graph, files: Files, sampler: str) -> None:
    stages = native(graph, files.base, yaws=(0, 10))
    latents = ksampler(graph, stages.applied, stages.applied, steps=3, sampler_name=sampler, scheduler="karras")
    graph.add("NVBProbeLatentDifference", first=latents, second=latents)
    assert client.run_well(graph.prompt).shown("NVBProbeLatentDifference")["shape"] == [2, 4, 8, 8]


def test_a_lora_changes_all_but_the_cross_attention(client: Client, graph: Graph, files: Files) -> None:
    block = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
    generator = torch.Generator().manual_seed(0)
    shapes = {"attn1.to_q": ((32, 4), (4, 32)), "attn2.to_k": ((32, 4), (4, CONFIG.channels))}
    factors = {
        layer: {
            f"{block}.{layer}.lora_{name}.weight": torch.randn(shape, generator=generator)
            for name, shape in zip(("up", "down"), both, strict=True)
        }
        for layer, both in shapes.items()
    }
    folder = files.base.parents[1] / "loras"
    folder.mkdir(exist_ok=True)
    save_file(factors["attn1.to_q"], folder / "attn1.safetensors")
    save_file(factors["attn1.to_q"] | factors["attn2.to_k"], folder / "both.safetensors")

    stages = native(graph, files.base, yaws=(0,))
    base = graph.add("NVBProbeSDModel", path=str(files.base), predicts_v=False)
    denoiser = stages.loader.output("NVB_DENOISER")
    drawn = [ksampler(graph, stages.applied, stages.applied, steps=3)]
    for name in ("attn1.safetensors", "both.safetensors"):
        changed = graph.add("LoraLoaderModelOnly", base, lora_name=name, strength_model=1.0)
        applied = graph.add("NVBApplyToModel", changed, stages.features, denoiser=denoiser)
        drawn.append(ksampler(graph, applied, applied, steps=3))
    without, attn1, both = drawn
    compared = [graph.add("NVBProbeLatentDifference", first=attn1, second=other) for other in (without, both)]
    outputs = client.run_well(graph.prompt).outputs
    with_and_without, with_attn2 = (outputs[node.id]["difference"][0] for node in compared)
    assert with_and_without > 1e-3
    assert with_attn2 == 0


def refused(client: Client, graph: Graph) -> str:
    result = client.run(graph.prompt)
    assert result.status == "execution_error"
    return str(result.detail["exception_message"])


def test_another_base_is_refused(client: Client, graph: Graph, files: Files) -> None:
    stages = native(graph, files.other)
    graph.add("SaveLatent", ksampler(graph, stages.applied, stages.applied))
    assert "isn't the base" in refused(client, graph)


def test_another_prediction_is_refused(client: Client, graph: Graph, files: Files) -> None:
    stages = native(graph, files.base, predicts_v=True)
    graph.add("SaveLatent", ksampler(graph, stages.applied, stages.applied))
    assert "ModelSamplingDiscrete (eps, zsnr off)" in refused(client, graph)


def test_another_noise_schedule_is_refused(client: Client, graph: Graph, files: Files) -> None:
    stages = native(graph, files.base)
    base = graph.add("NVBProbeSDModel", path=str(files.base), predicts_v=False)
    rescaled = graph.add("ModelSamplingDiscrete", base, sampling="eps", zsnr=True)
    denoiser = stages.loader.output("NVB_DENOISER")
    applied = graph.add("NVBApplyToModel", rescaled, stages.features, denoiser=denoiser)
    graph.add("SaveLatent", ksampler(graph, applied, applied))
    assert "ModelSamplingDiscrete (eps, zsnr off)" in refused(client, graph)


def test_a_model_that_draws_views_already_is_refused(client: Client, graph: Graph, files: Files) -> None:
    stages = native(graph, files.base)
    denoiser = stages.loader.output("NVB_DENOISER")
    twice = graph.add("NVBApplyToModel", stages.applied.output("MODEL"), stages.features, denoiser=denoiser)
    graph.add("SaveLatent", ksampler(graph, twice, twice))
    assert "draws views already" in refused(client, graph)


def test_views_of_one_camera_are_one_picture(client: Client, graph: Graph, files: Files) -> None:
    """All views of a face start from the same noise."""
    stages = native(graph, files.base, yaws=(20, 20))
    latents = ksampler(graph, stages.applied, stages.applied, steps=3)
    first, second = (graph.add("LatentFromBatch", latents, batch_index=i, length=1) for i in (0, 1))
    graph.add("NVBProbeLatentDifference", first=first, second=second)
    assert client.run_well(graph.prompt).shown("NVBProbeLatentDifference")["difference"][0] < 1e-5


def test_latents_of_either_sampler_are_of_one_scale(client: Client, graph: Graph, files: Files) -> None:
    """They start from other noise, so that latents of equal scale are about as far apart as they are long."""
    stages = native(graph, files.base)
    whole = graph.add("NVBLoader", checkpoint="native.safetensors", base=files.base.name)
    ours = graph.add("NVBDDIMSampler", whole, stages.features, steps=STEPS)
    graph.add("NVBProbeLatentDifference", first=ours, second=ksampler(graph, stages.applied, stages.applied))
    assert 0 < client.run_well(graph.prompt).shown("NVBProbeLatentDifference")["difference"][0] < 2


def test_a_latent_batch_of_another_size_is_refused(client: Client, graph: Graph, files: Files) -> None:
    stages = native(graph, files.base)
    empty = graph.add("EmptyLatentImage", width=64, height=64, batch_size=2)
    graph.add("SaveLatent", ksampler(graph, stages.applied, empty))
    assert "batch of 3 latents" in refused(client, graph)


def test_a_complete_model_is_refused(client: Client, graph: Graph, files: Files) -> None:
    stages = native(graph, files.base)
    mini = graph.add("NVBLoader")
    model = graph.add("NVBProbeSDModel", path=str(files.base), predicts_v=False)
    applied = graph.add("NVBApplyToModel", model, stages.features, denoiser=mini.output("NVB_DENOISER"))
    graph.add("SaveLatent", ksampler(graph, applied, applied))
    assert "complete model" in refused(client, graph)


def test_our_sampler_asks_for_the_base(client: Client, graph: Graph, files: Files) -> None:
    stages = native(graph, files.base)
    graph.add("SaveLatent", graph.add("NVBDDIMSampler", stages.loader, stages.features))
    assert "Load NVB-Face Model as base" in refused(client, graph)


def test_a_missing_autoencoder_says_where_to_get_one(client: Client, graph: Graph, files: Files) -> None:
    stages = native(graph, files.base)
    pictures = graph.add("VAEDecode", stages.applied.output("LATENT"), stages.loader.output("VAE"))
    graph.add("PreviewImage", pictures)
    assert "take the VAE from Load Checkpoint" in refused(client, graph)


@pytest.mark.parametrize(("config", "kind"), [(SD15, "SD15"), (SD21, "SD20")], ids=["sd15", "sd21"])
def test_core_recognises_an_exported_file(
    client: Client, graph: Graph, tmp_path: Path, config: ModelConfig, kind: str
) -> None:
    """By the names and shapes of the U-Net's tensors, at the real size."""
    with torch.device("meta"):
        unet = build_unet(config).state_dict()
    shapes = {name: list(unet[key].shape) for key, name in unet_names(unet, config.unet).items()}
    (tmp_path / "shapes.json").write_text(json.dumps(shapes))
    graph.add("NVBProbeRecognised", path=str(tmp_path / "shapes.json"))
    shown = client.run_well(graph.prompt).shown("NVBProbeRecognised")
    assert shown["class"] == [kind]
    assert shown["others"] == [[]]
