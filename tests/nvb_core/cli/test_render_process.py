"""`nvb-face render` in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nvb_core.staging import STAGE

Run = Callable[..., tuple[int, list[str]]]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """`nvb-face render` in a process of its own."""
    command = [sys.executable, "-m", "nvb_core.cli", "render", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_launched_processes_share_the_photos(weights: Path, photo: Path, out: Path, fast: list[str]) -> None:
    for name in ("b.png", "c.png"):
        photo.with_name(name).write_bytes(photo.read_bytes())
    photo.with_name("a_bad.png").write_text("no photo")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "nvb_core.cli", "render", photo.parent, "--out", out, "--weights", weights, *fast]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert sorted(p.name for p in out.iterdir()) == ["b", "c", "photo"], done.stderr
    assert all((out / name / "cameras.json").exists() for name in ("b", "c", "photo"))
    assert "1 of 2 photos failed" in done.stderr
    assert "skipped" not in done.stderr


@pytest.fixture
def working(weights: Path, photo: Path, out: Path, fast: list[str]) -> subprocess.Popen[str]:
    """A process that is in the middle of sampling."""
    slow = [*fast, "--steps", "1000", "--views", "300"]
    process = start(photo, "--out", out, "--weights", weights, *slow)
    deadline = time.monotonic() + 240
    while not (out / STAGE).exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(working: subprocess.Popen[str], out: Path, number: signal.Signals) -> None:
    working.send_signal(number)
    _, stderr = working.communicate(timeout=180)
    assert working.returncode == 2
    assert stderr == "nvb-face: interrupted; nothing half-written was left\n"
    assert not out.parent.exists()


def test_killed_then_run_again(working: subprocess.Popen[str], run: Run, out: Path) -> None:
    working.kill()
    working.communicate(timeout=180)
    assert [p.name for p in out.iterdir()] == [STAGE]
    assert run()[0] == 0
    assert {p.name for p in out.iterdir()} == {"cameras.json", "sheet.png", "views"}


def test_a_second_process_leaves_the_first_alone(working: subprocess.Popen[str], run: Run, out: Path) -> None:
    code, lines = run()
    assert (code, len(lines)) == (2, 1)
    assert f"{out}: another nvb-face is writing here" in lines[0]
    assert (out / STAGE).exists()
    working.kill()
    working.communicate(timeout=180)


def test_error_is_one_line_without_traceback(weights: Path, photo: Path, out: Path, fast: list[str]) -> None:
    photo.write_text("no photo")
    process = start(photo, "--out", out, "--weights", weights, *fast)
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == 2
    assert stderr.count("\n") == 1
    assert stderr.startswith(f"nvb-face: error: {photo}: not a readable image")
    assert not out.parent.exists()
    assert os.listdir(photo.parent) == ["photo.png"]
