from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nvb_core.degradation_ops import BlurKernel, blur
from nvb_core.errors import ConfigError
from training.evaluation.benchmark import Benchmark, BenchmarkFace
from training.evaluation.published import (
    MANIFEST,
    MOST_DIFFERENCE,
    Agreement,
    compare_with_published,
    difference,
    manifest_text,
    pictures,
    print_of,
    read_manifest,
)

from .conftest import VIEWS

MakeFace = Callable[[int], BenchmarkFace]


def test_pictures_are_all_there(make_face: MakeFace) -> None:
    face = make_face(3)
    images = pictures(face)
    assert images.shape == (VIEWS + 3 + 2, 3, 32, 32)
    assert torch.equal(images[0], ((face.image + 1) * 127.5).round().to(torch.uint8))
    assert not torch.equal(images[-2], images[-1])


def test_rounding_changes_the_checksum_alone(make_face: MakeFace) -> None:
    face = make_face(3)
    image = face.image.clone()
    image[0, 5, 5] += 1 / 127.5
    rounded = print_of(replace(face, image=image))
    assert rounded.sha256 != print_of(face).sha256
    assert difference(rounded, print_of(face)) <= 1
    brighter = print_of(replace(face, image=(face.image + 0.1).clamp(-1, 1)))
    assert difference(brighter, print_of(face)) > 5
    moved = replace(face, cameras=replace(face.cameras, input=make_face(4).cameras.input))
    assert print_of(moved).sha256 != print_of(face).sha256


def test_manifest_round_trip(make_face: MakeFace, tmp_path: Path) -> None:
    prints = {seed: print_of(make_face(seed)) for seed in (1, 2)}
    (tmp_path / "heads.json").write_text(manifest_text(prints))
    assert read_manifest(tmp_path / "heads.json") == prints


def test_heads_are_compared_with_the_published_ones(heads: Benchmark, tmp_path: Path) -> None:
    seeds = (1_000_000, 1_000_001)
    published = {seed: print_of(heads.load(seed)) for seed in seeds}
    assert compare_with_published(heads, seeds, published) == Agreement(2, 0)
    almost = published | {seeds[1]: replace(published[seeds[1]], sha256="0" * 16)}
    assert compare_with_published(heads, seeds, almost) == Agreement(1, 1)
    assert str(Agreement(2, 0)) == "all 2 heads are the published ones, bit for bit"
    swapped = dict(zip(seeds, reversed(published.values()), strict=True))
    with pytest.raises(ConfigError, match="01000000: not the published head of heads-v1"):
        compare_with_published(heads, seeds, swapped)


def test_agreement_without_the_checksum_claims_mean_colours_alone(heads: Benchmark) -> None:
    """They don't tell a blurred picture from a sharp one."""
    [seed] = seeds = (1_000_000,)
    face = heads.load(seed)
    soft = torch.stack([blur(image, BlurKernel("gaussian", 21, 2.0, 2.0)) for image in face.targets]).clamp(-1, 1)
    assert difference(print_of(replace(face, targets=soft)), print_of(face)) <= MOST_DIFFERENCE
    agreement = compare_with_published(heads, seeds, {seed: print_of(replace(face, targets=soft))})
    assert agreement == Agreement(0, 1)
    assert str(agreement) == (
        "0 of 1 heads are the published ones bit for bit, of 1 only the mean colours of each picture's quarters agree"
    )


def test_the_published_set_is_whole() -> None:
    published = read_manifest(MANIFEST)
    assert sorted(published) == list(range(1_000_000, 1_000_300))
    assert len({p.sha256 for p in published.values()}) == 300
