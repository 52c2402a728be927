from __future__ import annotations

from dataclasses import replace

import torch

from training.heads.identity import sample_identity
from training.judges.people import TRAINING_SEED, in_scene
from training.judges.traits import look_of, shape_of, trait_table


def test_traits_are_the_persons_whatever_the_scene() -> None:
    person, other = (sample_identity(TRAINING_SEED + i) for i in (3, 4))
    shown = in_scene(person, 2)
    assert look_of(shown) == look_of(person) != look_of(other)
    assert torch.equal(shape_of(shown), shape_of(person))
    aged = replace(person, phenotype=replace(person.phenotype, age=0.0))
    assert float((shape_of(aged) - shape_of(person)).abs().max()) > 0.005


def test_traits_are_standardised_and_keep_distances() -> None:
    table = trait_table(range(TRAINING_SEED, TRAINING_SEED + 40))
    assert torch.allclose(table.mean(0), torch.zeros(table.shape[1]), atol=1e-5)
    assert torch.allclose(table.std(0), torch.ones(table.shape[1]), atol=1e-4)
    assert torch.equal(table, trait_table(range(TRAINING_SEED, TRAINING_SEED + 40)))
