from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from nvb_core import staging
from nvb_core.errors import OccupiedError, OutputError
from nvb_core.staging import STAGE, locked, staged_folder, write_atomically, writing

NAMES = ("views", "sheet.png")


def is_ours(folder: Path) -> bool:
    return (folder / "done").exists()


def publish(target: Path, text: str, names: tuple[str, ...] = NAMES) -> None:
    with staged_folder(target, "done", NAMES, is_ours) as stage:
        fill(stage, text, names)


def fill(stage: Path, text: str, names: tuple[str, ...] = NAMES) -> None:
    (stage / "done").write_text(text)
    if "views" in names:
        (stage / "views").mkdir()
        (stage / "views" / f"{text}.png").write_text(text)
    if "sheet.png" in names:
        (stage / "sheet.png").write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


NEW = {"done": "new", "sheet.png": "new", "views/new.png": "new"}
OLD = {"done": "old", "sheet.png": "old", "views/old.png": "old"}


def test_makes_the_folder_with_its_parents(tmp_path: Path) -> None:
    publish(tmp_path / "a" / "b", "new")
    assert content(tmp_path / "a" / "b") == NEW
    assert not (tmp_path / "a" / "b" / STAGE).exists()


def test_replaces_an_old_result_and_leaves_other_files_alone(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    (tmp_path / "notes.txt").write_text("mine")
    publish(tmp_path, "new")
    assert content(tmp_path) == NEW | {"notes.txt": "mine"}


def test_entries_that_the_new_result_lacks_go_away(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    publish(tmp_path, "new", ("sheet.png",))
    assert content(tmp_path) == {"done": "new", "sheet.png": "new"}


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with staged_folder(tmp_path / "a" / "b", "done", NAMES, is_ours) as stage:
            fill(stage, "new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_result(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    with pytest.raises(TypeError):
        publish(tmp_path, "half", names=None)  # type: ignore[arg-type]
    assert content(tmp_path) == OLD


def test_refuses_to_replace_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "django.py").write_text("mine")
    with pytest.raises(OccupiedError, match="views"):
        publish(tmp_path, "new")
    assert content(tmp_path) == {"views/django.py": "mine"}


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / STAGE / "views").mkdir(parents=True)
    (tmp_path / STAGE / "views" / "half.png").write_text("half")
    (tmp_path / "sheet.png").write_text("moved just before the kill")
    publish(tmp_path, "new")
    assert content(tmp_path) == NEW


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged_folder(out, "done", NAMES, is_ours) as stage:
        fill(stage, "old")
        with pytest.raises(OccupiedError, match=r"out: another nvb-face is writing here"):
            publish(out, "new")
    assert content(out) == OLD
    publish(out, "new")
    assert content(out) == NEW


def test_a_lock_can_be_held_over_any_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out):
        for attempt in (locked(out), staged_folder(out, "done", NAMES, is_ours)):
            with pytest.raises(OccupiedError, match=r"out: another nvb-face is writing here"), attempt:
                pass
        assert list(tmp_path.iterdir()) == []
    publish(out, "new")
    assert content(out) == NEW


@pytest.mark.parametrize("calls_before", range(5))
def test_ctrl_c_while_moving_still_ends_with_the_whole_new_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls_before: int
) -> None:
    publish(tmp_path, "old")
    calls = 0

    def interrupted_once(original, *args, **kwargs):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == calls_before + 1:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    rename, remove = Path.rename, staging._remove
    monkeypatch.setattr(Path, "rename", lambda *a: interrupted_once(rename, *a))
    monkeypatch.setattr(staging, "_remove", lambda *a: interrupted_once(remove, *a))
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, "new")
    assert content(tmp_path) == NEW


def test_target_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory"):
        publish(tmp_path / "file" / "x" / "out", "new")
    assert content(tmp_path) == {"file": ""}


def test_full_disk_while_making_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def full(self: Path, *args: object, **kwargs: object) -> None:
        if self.name == STAGE:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        mkdir(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OutputError, match=r"No space left on device.*free some space"):
        publish(tmp_path / "a" / "b", "new")
    assert list(tmp_path.iterdir()) == []


def test_os_errors_become_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, writing(tmp_path):
        shutil.copy(tmp_path / "missing", tmp_path / "copy")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def write(partial: Path) -> None:
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write_atomically(tmp_path / "file", write)
    assert not list(tmp_path.iterdir())
