from __future__ import annotations

import numpy as np
import pytest

from nvb_core.errors import ConfigError
from training.heads.basis import load_basis
from training.heads.expression import PRESETS, sample_expression
from training.heads.identity import cloth_depth, sample_identity
from training.heads.look import Cloth, skin_color

PEOPLE = [sample_identity(seed) for seed in range(300)]


def test_a_seed_is_a_person() -> None:
    assert sample_identity(41) == PEOPLE[41]
    assert PEOPLE[41] != PEOPLE[42]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"seed is -1; expected 0 or more"):
        sample_identity(-1)


def test_ancestry_drives_skin_hair_and_eyes_together() -> None:
    def mean(values: list[float]) -> float:
        return float(np.mean(values))

    groups = [[p for p in PEOPLE if p.phenotype.ancestry[i] > 0.8] for i in range(3)]
    skin = [mean([float(np.mean(p.look.skin.color)) for p in group]) for group in groups]
    assert skin[0] < 0.4 * skin[1] < 0.5 * skin[2]
    young = [[p for p in group if p.phenotype.age < 0.7] for group in groups]
    hair = [mean([float(np.mean(p.look.hair.light)) for p in group]) for group in young]
    iris = [mean([float(np.mean(p.look.eyes.iris)) for p in group]) for group in groups]
    assert max(hair[:2]) < hair[2]
    assert max(iris[:2]) < iris[2]
    curly = [mean([p.look.hair.curl > 0.5 for p in group]) for group in groups]
    assert curly[0] > 2 * max(curly[1:])


def test_changes_are_tame_and_near_symmetric() -> None:
    names = load_basis().local_names
    for person in PEOPLE[:50]:
        assert set(person.changes) == set(names)
        for name, value in person.changes.items():
            if name.startswith("l-"):
                assert abs(value - person.changes["r-" + name[2:]]) < 0.25
    noses = [v for p in PEOPLE for name, v in p.changes.items() if name.startswith(("nose", "chin"))]
    assert np.std(noses) < 0.2


def test_skin_tones_darken_monotonically() -> None:
    tones = np.stack([skin_color(t) for t in np.linspace(0, 1, 20)])
    assert (np.diff(tones.sum(1)) < 0).all()


def test_cloth_covers_the_shoulders_and_not_the_face() -> None:
    cloth = Cloth(color=(1, 1, 1), second=(0, 0, 0), pattern=0.0, frequency=50.0, collar=0.0, vneck=0.05)
    rest = load_basis().rest
    depth = cloth_depth(cloth, rest)
    assert (depth[rest[:, 1] > 0] < 0).all()
    assert (depth[rest[:, 1] < -0.24] > 0).all()


def test_expressions_are_known_half_neutral_and_looking_about() -> None:
    known = set(load_basis().action_names)
    for preset in PRESETS.values():
        assert set(preset) <= known
    expressions = [sample_expression(seed) for seed in range(400)]
    assert expressions[3] == sample_expression(3)
    neutral = [not any(not name.startswith("eyeLook") for name in e.actions) for e in expressions]
    assert 0.42 < np.mean(neutral) < 0.58
    assert all(set(e.actions) <= known for e in expressions)
    assert all(0 <= value <= 1 for e in expressions for value in e.actions.values())
