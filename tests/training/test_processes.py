from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from nvb_core.errors import ConfigError, NVBError
from training.processes import WAITING, in_processes


def leave(folder: Path, name: str) -> None:
    """A job that leaves a file, and in it the process that did it."""
    (folder / name).write_text(str(os.getpid()), encoding="utf-8")


def refuse(folder: Path, name: str) -> None:
    """A job that can't be done."""
    raise ConfigError(f"{name} can't be done")


def kill_itself(folder: Path, name: str) -> None:
    """A job whose process is killed, as for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_each_job_is_done_once(tmp_path: Path, workers: int) -> None:
    jobs = [(tmp_path, f"{i}") for i in range(3 * WAITING * workers)]
    done = list(in_processes(leave, jobs, workers))
    assert sorted(done) == sorted(jobs)
    processes = {int(path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()}
    assert (os.getpid() in processes) == (workers == 1)
    assert len(list(tmp_path.iterdir())) == len(jobs)


def test_no_jobs_start_no_process(tmp_path: Path) -> None:
    assert list(in_processes(kill_itself, [], 2)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_job_raises_is_raised(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ConfigError, match="can't be done"):
        list(in_processes(refuse, [(tmp_path, "a"), (tmp_path, "b")], workers))


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_killed_process_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NVBError, match="was killed; free memory or use fewer than --workers 2"):
        list(in_processes(kill_itself, [(tmp_path, f"{i}") for i in range(20)], 2))
