from __future__ import annotations

from training.budget import SKIPPED_STEPS, TIMED_STEPS, TimeBudget


def test_first_slow_steps_do_not_count() -> None:
    budget, minutes, left = TimeBudget(10.0), 0.0, None
    for step in range(SKIPPED_STEPS + TIMED_STEPS):
        assert left is None
        minutes += 0.5 if step < SKIPPED_STEPS else 0.01
        left = budget.steps_left(minutes)
    assert left is not None
    assert abs(left - (10 - minutes) / 0.01) <= 1


def test_a_spent_budget_leaves_nothing() -> None:
    assert TimeBudget(1.0).steps_left(1.2) == 0
