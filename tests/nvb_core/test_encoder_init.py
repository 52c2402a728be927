from __future__ import annotations

from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor

from nvb_core.config import SD21, EncoderConfig
from nvb_core.encoder import ImageEncoder
from nvb_core.encoder_init import initialise_encoder, our_name
from nvb_core.errors import CheckpointError

CONFIG = EncoderConfig(base_channels=8, channel_mult=(1, 2, 2), blocks_per_level=2, out_channels=16, norm_groups=4)


def convolution(generator: torch.Generator, out: int, into: int, side: int) -> Tensor:
    return torch.randn(out, into, side, side, generator=generator)


def vqgan(config: EncoderConfig, prefix: str = "") -> dict[str, Tensor]:
    """An encoder as taming-transformers and Stable Diffusion name it, with random weights."""
    g = torch.Generator().manual_seed(0)
    widths = [config.base_channels * m for m in config.channel_mult]
    tensors = {"conv_in.weight": convolution(g, widths[0], 3, 3), "conv_in.bias": torch.randn(widths[0], generator=g)}

    def block(place: str, into: int, out: int) -> None:
        for name, channels in (("norm1", into), ("norm2", out)):
            tensors[f"{place}.{name}.weight"] = torch.randn(channels, generator=g)
            tensors[f"{place}.{name}.bias"] = torch.randn(channels, generator=g)
        for name, channels in (("conv1", into), ("conv2", out)):
            tensors[f"{place}.{name}.weight"] = convolution(g, out, channels, 3)
            tensors[f"{place}.{name}.bias"] = torch.randn(out, generator=g)
        if into != out:
            tensors[f"{place}.nin_shortcut.weight"] = convolution(g, out, into, 1)
            tensors[f"{place}.nin_shortcut.bias"] = torch.randn(out, generator=g)

    def attention(place: str, width: int) -> None:
        for name in ("q", "k", "v", "proj_out"):
            tensors[f"{place}.{name}.weight"] = convolution(g, width, width, 1)
            tensors[f"{place}.{name}.bias"] = torch.randn(width, generator=g)
        for kind in ("weight", "bias"):
            tensors[f"{place}.norm.{kind}"] = torch.randn(width, generator=g)

    for level, width in enumerate(widths):
        last = level == len(widths) - 1
        for index in range(config.blocks_per_level):
            into = widths[max(level - 1, 0)] if index == 0 else width
            block(f"down.{level}.block.{index}", into, width)
            if last:
                attention(f"down.{level}.attn.{index}", width)
        if not last:
            tensors[f"down.{level}.downsample.conv.weight"] = convolution(g, width, width, 3)
            tensors[f"down.{level}.downsample.conv.bias"] = torch.randn(width, generator=g)
    block("mid.block_1", widths[-1], widths[-1])
    attention("mid.attn_1", widths[-1])
    block("mid.block_2", widths[-1], widths[-1])
    for kind in ("weight", "bias"):
        tensors[f"norm_out.{kind}"] = torch.randn(widths[-1], generator=g)
    tensors["conv_out.weight"] = convolution(g, config.out_channels, widths[-1], 3)
    tensors["conv_out.bias"] = torch.randn(config.out_channels, generator=g)
    return {f"{prefix}encoder.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_all_but_time_is_filled_from_an_encoder_of_the_same_widths(tmp_path: Path, prefix: str) -> None:
    source = vqgan(CONFIG, prefix)
    save_file({**source, "decoder.conv_in.weight": torch.ones(1)}, tmp_path / "vqgan.safetensors")
    encoder = ImageEncoder(CONFIG)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    done = initialise_encoder(encoder, tmp_path / "vqgan.safetensors")
    state = encoder.state_dict()
    kept = {name for name, tensor in state.items() if torch.equal(tensor, before[name])}
    assert kept == {name for name in state if ".time." in f".{name}"}
    assert done.tensors == len(state) - len(kept)
    assert done.numbers == sum(t.numel() for name, t in state.items() if name not in kept)
    assert torch.equal(
        state["levels.1.blocks.0.skip.weight"], source[f"{prefix}encoder.down.1.block.0.nin_shortcut.weight"]
    )
    key, value = (source[f"{prefix}encoder.mid.attn_1.{name}.weight"][:, :, 0, 0] for name in "kv")
    assert torch.equal(state["mid_attention.attention.to_kv.weight"], torch.cat([key, value]))


def test_attention_computes_what_the_sources_does(tmp_path: Path) -> None:
    """But for the biases of queries, keys and values, which ours hasn't."""
    source = vqgan(CONFIG)
    save_file(source, tmp_path / "vqgan.safetensors")
    encoder = ImageEncoder(CONFIG)
    initialise_encoder(encoder, tmp_path / "vqgan.safetensors")
    x = torch.randn(2, 16, 3, 3)
    q, k, v, out = (source[f"encoder.mid.attn_1.{n}.weight"][:, :, 0, 0] for n in ("q", "k", "v", "proj_out"))
    tokens = rearrange(encoder.mid_attention.norm(x), "b c h w -> b (h w) c")
    scores = ((tokens @ q.T) @ (tokens @ k.T).transpose(1, 2) / 16**0.5).softmax(dim=-1)
    expected = (scores @ (tokens @ v.T)) @ out.T + source["encoder.mid.attn_1.proj_out.bias"]
    found = encoder.mid_attention(x) - x
    torch.testing.assert_close(rearrange(found, "b c h w -> b (h w) c"), expected, rtol=1e-3, atol=1e-3)


def test_only_what_fits_is_copied(tmp_path: Path) -> None:
    wider = EncoderConfig(base_channels=16, channel_mult=(1, 1, 1), blocks_per_level=1, out_channels=16, norm_groups=4)
    save_file(vqgan(wider), tmp_path / "wider.safetensors")
    encoder = ImageEncoder(CONFIG)
    stem = encoder.stem.weight.clone()
    done = initialise_encoder(encoder, tmp_path / "wider.safetensors")
    assert 0 < done.numbers < done.of_numbers
    assert torch.equal(encoder.stem.weight, stem)


def test_paper_scale_names_are_ours() -> None:
    """Of the encoder that has CodeFormer's widths every tensor has a place."""
    with torch.device("meta"):
        own = set(ImageEncoder(SD21.encoder).state_dict())
    source = {name.removeprefix("encoder.") for name in vqgan(SD21.encoder)}
    placed = {ours for name in source if (ours := our_name(name)) in own}
    unplaced = {name for name in source if our_name(name) not in own}
    assert all(name.split(".")[-2] in ("q", "k", "v") for name in unplaced)  # merged, or biases that ours hasn't
    assert {n for n in own - placed if ".time." not in f".{n}" and "to_kv" not in n} == set()


def test_a_file_without_an_encoder_is_refused(tmp_path: Path) -> None:
    save_file({"something.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: holds no encoder"):
        initialise_encoder(ImageEncoder(CONFIG), tmp_path / "other.safetensors")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_numbers_of_another_kind_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    weight = torch.ones(ImageEncoder(CONFIG).stem.weight.shape).to(dtype)
    save_file({"encoder.conv_in.weight": weight}, tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=rf"small\.safetensors: the tensor for stem.weight is of {dtype}"):
        initialise_encoder(ImageEncoder(CONFIG), tmp_path / "small.safetensors")


def test_nothing_that_fits_is_refused(tmp_path: Path) -> None:
    save_file({"encoder.conv_in.weight": torch.ones(4, 3, 3, 3)}, tmp_path / "thin.safetensors")
    with pytest.raises(CheckpointError, match="no tensor of its encoder has the shape"):
        initialise_encoder(ImageEncoder(CONFIG), tmp_path / "thin.safetensors")
