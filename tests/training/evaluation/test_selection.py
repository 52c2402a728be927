from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from nvb_core.errors import ConfigError
from training.evaluation.benchmark import BenchmarkSettings
from training.evaluation.selection import JUDGES_SEEDS, HeadSelection
from training.heads.dataset import HELD_OUT_SEED
from training.judges.judges import SHIPPED
from training.judges.people import HELD_OUT_SEED as JUDGES_HELD_OUT_SEED
from training.judges.people import TRAINING_SEED


def test_the_standard_set_and_a_custom_one() -> None:
    standard = HeadSelection(set="heads-v1")
    assert standard.seeds == range(HELD_OUT_SEED, HELD_OUT_SEED + 300)
    assert standard.settings(128) == BenchmarkSettings(16, 128, "rig")
    assert HeadSelection(set="heads-v1", identities=7).seeds == range(HELD_OUT_SEED, HELD_OUT_SEED + 7)
    custom = HeadSelection()
    assert (len(custom.seeds), custom.settings(64)) == (64, BenchmarkSettings(8, 64))
    assert HeadSelection(identities=3, views=5).settings(64) == BenchmarkSettings(5, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": 8}, "--set heads-v1 has 16 views .* leave out --views and --first-seed"),
        ({"first_seed": HELD_OUT_SEED + 1}, "--set heads-v1 has 16 views"),
        ({"identities": 301}, "--identities is 301, heads-v1 has 300"),
        ({"identities": 0}, "--identities is 0"),
        ({"level": ()}, "--level is empty"),
        ({"level": (1, 1)}, "--level is 1 1; give each level once"),
    ],
)
def test_contradictions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HeadSelection(set="heads-v1", **change)


def test_people_of_the_judges_are_refused() -> None:
    """Of whatever seeds a share is among them."""
    with safe_open(SHIPPED, "pt") as file:
        people = json.loads(file.metadata()["training"])["people"]
    assert range(TRAINING_SEED, TRAINING_SEED + people) == JUDGES_SEEDS
    assert JUDGES_SEEDS.stop <= JUDGES_HELD_OUT_SEED
    overlapping = ((2_999_999, 2, 1), (3_000_000, 64, 64), (3_011_999, 10, 1), (2_999_000, 14000, 12000))
    for first, count, learned in overlapping:
        with pytest.raises(ConfigError, match=rf"the judges .* 3000000–3011999, {learned} of them .* --allow-training"):
            HeadSelection(first_seed=first, identities=count)
        assert len(HeadSelection(first_seed=first, identities=count, allow_training_seeds=True).seeds) == count
    assert HeadSelection(first_seed=2_999_936).seeds.stop == JUDGES_SEEDS.start
    assert HeadSelection(first_seed=JUDGES_SEEDS.stop).seeds.start == JUDGES_SEEDS.stop


def test_several_levels_have_folders_of_their_own() -> None:
    assert HeadSelection(level=(2,)).folder(2, Path("out")) == Path("out")
    several = HeadSelection(level=(0, 2))
    assert [several.folder(level, Path("out")) for level in (0, 2)] == [Path("out/level0"), Path("out/level2")]


@pytest.mark.parametrize(
    "change", [{"set": "heads-v1"}, {"first_seed": HELD_OUT_SEED + 1}, {"allow_training_seeds": True}]
)
def test_own_pictures_are_no_heads(change: dict[str, Any]) -> None:
    assert HeadSelection(data=Path("faces"), identities=3, views=1).split == "test"
    with pytest.raises(ConfigError, match="--data takes the place of synthetic heads"):
        HeadSelection(data=Path("faces"), **change)
    with pytest.raises(ConfigError, match="--views is 0"):
        HeadSelection(data=Path("faces"), views=0)
