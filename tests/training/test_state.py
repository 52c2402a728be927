from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nvb_core.errors import CheckpointError, OutputError
from training.muon import Muon
from training.state import (
    LossLog,
    Progress,
    load_state,
    read_progress,
    remove_partial_files,
    save_state,
    weights_sha256,
)

PROGRESS = Progress(step=3, minutes=1.25, planned_steps=40, budget_minutes=0.1 + 0.2)
Run = tuple[dict[str, nn.Parameter], list[Tensor], torch.optim.Optimizer]


def trained(steps: int, width: int = 4, names: tuple[str, ...] = ("a", "b"), muon: bool = False) -> Run:
    """Parameters, averages and an optimiser (with `muon`, for the first of them) after some steps."""
    generator = torch.Generator().manual_seed(0)
    parameters = {n: nn.Parameter(torch.randn(width, 3, generator=generator)) for n in names}
    values = list(parameters.values())
    optimizer = Muon(values, values[:1], lr=0.1) if muon else torch.optim.AdamW(values, lr=0.1, fused=True)
    advance((parameters, [], optimizer), steps)
    return parameters, [torch.randn(p.shape, generator=generator) for p in parameters.values()], optimizer


def advance(run: Run, steps: int) -> None:
    parameters, _, optimizer = run
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing past `size` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("muon", [False, True])
def test_round_trip_is_exact_and_goes_on_exactly(tmp_path: Path, muon: bool) -> None:
    first, second = trained(3, muon=muon), trained(0, muon=muon)
    save_state(tmp_path / "state", PROGRESS, *first)
    assert load_state(tmp_path / "state", *second) == PROGRESS
    assert read_progress(tmp_path / "state") == PROGRESS
    for a, b in zip(first[1], second[1], strict=True):
        assert torch.equal(a, b)
    advance(first, 2)
    advance(second, 2)
    for name, parameter in first[0].items():
        assert torch.equal(parameter, second[0][name])


def test_the_state_of_another_optimiser_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state", PROGRESS, *trained(3))
    with pytest.raises(CheckpointError, match=r"exp_avg\.a is \[4, 3\], this run needs no such tensor"):
        load_state(tmp_path / "state", *trained(0, muon=True))


def test_nothing_is_done_where_there_is_no_state(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "state") == Progress()


def test_a_state_without_time_is_read(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "s", {"format": "nvb-face-training-state", "version": "1", "step": "7"})
    assert read_progress(tmp_path / "s") == Progress(step=7)


@pytest.mark.parametrize(
    ("width", "names", "key"),
    [(5, ("a", "b"), "ema.a"), (4, ("a",), "ema.b"), (4, ("a", "b", "c"), "ema.c")],
)
def test_a_state_of_other_parameters_names_the_first_one(
    tmp_path: Path, width: int, names: tuple[str, ...], key: str
) -> None:
    save_state(tmp_path / "state", PROGRESS, *trained(3))
    other = trained(0, width, names)
    before = [p.detach().clone() for p in other[0].values()]
    with pytest.raises(CheckpointError, match=rf"state: {key} is .*use another --out"):
        load_state(tmp_path / "state", *other)
    assert all(torch.equal(a, b) for a, b in zip(before, other[0].values(), strict=True))


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_truncated_state_is_one_clear_error(tmp_path: Path, size: int) -> None:
    path = tmp_path / "state"
    save_state(path, PROGRESS, *trained(3))
    path.write_bytes(path.read_bytes()[:size])
    for read in (lambda: load_state(path, *trained(0)), lambda: read_progress(path)):
        with pytest.raises(CheckpointError, match=r"state: not a readable training state.*delete it to start afresh"):
            read()


@pytest.mark.parametrize("header", [None, {"format": "nvb-face", "version": "1"}])
def test_another_kind_of_file_is_refused(tmp_path: Path, header: dict[str, str] | None) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "state", header)
    with pytest.raises(CheckpointError, match="not a training state"):
        load_state(tmp_path / "state", *trained(0))


@pytest.mark.parametrize("step", ["", "three"])
def test_a_damaged_header_is_refused(tmp_path: Path, step: str) -> None:
    header = {"format": "nvb-face-training-state", "version": "1", "step": step}
    save_file({"x": torch.zeros(1)}, tmp_path / "state", header)
    with pytest.raises(CheckpointError, match="delete it"):
        read_progress(tmp_path / "state")


def test_a_full_disk_keeps_the_old_state_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, PROGRESS, *trained(3))
    before = path.read_bytes()
    with files_limited_to(500), pytest.raises(OutputError, match=r"state: can't be written .*free space"):
        save_state(path, Progress(step=9), *trained(3))
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert path.read_bytes() == before


def test_a_folder_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(OutputError, match="another folder"):
        LossLog(tmp_path / "runs" / "loss.jsonl", 0)


def test_partial_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    for name in ("state.safetensors", "state.safetensors.123.partial", "model.safetensors.123.partial"):
        (tmp_path / name).write_text("")
    remove_partial_files(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_state_holds_the_documented_keys(tmp_path: Path) -> None:
    save_state(tmp_path / "state", PROGRESS, *trained(3, names=("a",)))
    with safe_open(tmp_path / "state", framework="pt") as state:
        assert set(state.keys()) == {"param.a", "ema.a", "exp_avg.a", "exp_avg_sq.a"}


def test_loss_log_drops_what_lies_past_the_resumed_step(tmp_path: Path) -> None:
    path = tmp_path / "loss.jsonl"
    log = LossLog(path, 0)
    for step in range(1, 5):
        log.append(step, {"loss": step / 2})
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # what kill -9 may leave
    LossLog(path, 3).append(4, {"loss": 9.0})
    assert path.read_text().splitlines() == [
        '{"step": 1, "loss": 0.5}',
        '{"step": 2, "loss": 1.0}',
        '{"step": 3, "loss": 1.5}',
        '{"step": 4, "loss": 9.0}',
    ]
    LossLog(path, 0)
    assert path.read_text() == ""


def test_loss_log_on_a_full_disk(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "loss.jsonl", 0)
    with files_limited_to(10), pytest.raises(OutputError, match=r"loss\.jsonl: can't be written"):
        log.append(1, {"loss": 0.5, "lr": 0.1})


def test_weights_are_told_by_their_numbers_alone(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for path, value, told in zip(files, (0, 0, 1), ("one", "another", "one"), strict=True):
        save_file({"x": torch.full((3,), float(value))}, path, metadata={"told": told})
    a, b, c = map(weights_sha256, files)
    assert a == b != c
    assert weights_sha256(None) == weights_sha256(tmp_path / "gone") == ""
