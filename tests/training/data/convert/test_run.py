from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nvb_core.errors import ConfigError, OccupiedError, OutputError
from nvb_core.staging import locked
from tests.training.data.convert.made_up import pixels_of, save_picture
from training.data import read_index
from training.data.convert import image as image_module
from training.data.convert import run as run_module
from training.data.convert.faces import plan_faces
from training.data.convert.plan import Item, Plan, clean_name, finish, list_images
from training.data.convert.run import Report, run


def make_plan(source: Path, count: int = 4, **settings: Any) -> Plan:
    for i in range(count):
        if not (source / f"{i}.png").exists():
            save_picture(source / f"{i}.png", i)
    items = [Item(f"subject{i // 2}", f"{i % 2:02d}", f"{i}.png", None) for i in range(count)]
    return finish("test", source, items, **settings)


def convert(plan: Plan, out: Path, size: int | None = None) -> Report:
    return run(plan, out, size, workers=1, show_progress=False)


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources that are really read, in order."""
    names: list[str] = []
    original = run_module.convert_image

    def counting(item: Item, *rest: Any) -> int:
        names.append(item.source)
        return original(item, *rest)

    monkeypatch.setattr(run_module, "convert_image", counting)
    return names


def test_a_second_run_does_what_is_missing(tmp_path: Path, converted: list[str]) -> None:
    plan = make_plan(tmp_path / "src")
    first = convert(plan, tmp_path / "out")
    assert converted == ["0.png", "1.png", "2.png", "3.png"]
    index = (tmp_path / "out" / "dataset.json").read_bytes()
    converted.clear()
    assert convert(plan, tmp_path / "out") == first
    assert converted == []
    (tmp_path / "out" / "subject1" / "00.png").unlink()
    convert(make_plan(tmp_path / "src", 5), tmp_path / "out")
    assert converted == ["2.png", "4.png"]
    assert (tmp_path / "out" / "dataset.json").read_bytes() != index
    assert len(read_index(tmp_path / "out").paths) == 5


def test_a_changed_source_is_converted_anew(tmp_path: Path, converted: list[str]) -> None:
    convert(make_plan(tmp_path / "src"), tmp_path / "out")
    converted.clear()
    pixels = save_picture(tmp_path / "src" / "2.png", 99)
    os.utime(tmp_path / "src" / "2.png", ns=(1, 1))
    convert(make_plan(tmp_path / "src"), tmp_path / "out")
    assert converted == ["2.png"]
    assert (pixels_of(tmp_path / "out" / "subject1" / "00.png") == pixels).all()


def test_a_stopped_run_leaves_no_labels_of_other_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(make_plan(tmp_path / "src"), tmp_path / "out")
    original = run_module.convert_image

    def stopping(item: Item, *rest: Any) -> int:
        if item.source == "2.png":
            raise KeyboardInterrupt
        return original(item, *rest)

    monkeypatch.setattr(run_module, "convert_image", stopping)
    for i in (1, 2):
        save_picture(tmp_path / "src" / f"{i}.png", 90 + i)
    with pytest.raises(KeyboardInterrupt):
        convert(make_plan(tmp_path / "src"), tmp_path / "out")
    assert not (tmp_path / "out/dataset.json").exists()
    monkeypatch.undo()
    assert convert(make_plan(tmp_path / "src"), tmp_path / "out").images == 4
    assert len(read_index(tmp_path / "out").paths) == 4


@pytest.mark.parametrize("folder", ["elsewhere", "src"])
def test_a_second_source_does_not_replace_the_first(tmp_path: Path, folder: str) -> None:
    convert(make_plan(tmp_path / "a" / "src"), tmp_path / "out")
    (tmp_path / "b" / folder).mkdir(parents=True)
    plan = make_plan(tmp_path / "b" / folder, 3)
    with pytest.raises(ConfigError, match="out: holds images of another source; choose another --out"):
        convert(plan, tmp_path / "out")
    assert len(read_index(tmp_path / "out").paths) == 4


def test_a_source_may_move(tmp_path: Path, converted: list[str]) -> None:
    convert(make_plan(tmp_path / "src"), tmp_path / "out")
    converted.clear()
    (tmp_path / "src").rename(tmp_path / "moved")
    assert convert(make_plan(tmp_path / "moved"), tmp_path / "out").images == 4
    assert converted == []


def test_other_images_under_the_same_names_are_never_kept(tmp_path: Path, converted: list[str]) -> None:
    convert(make_plan(tmp_path / "src"), tmp_path / "out")
    converted.clear()
    items = [Item(f"subject{i // 2}", f"{i % 2:02d}", f"{3 - i}.png", None) for i in range(4)]
    convert(finish("test", tmp_path / "src", items), tmp_path / "out")
    assert converted == ["3.png", "2.png", "1.png", "0.png"]
    assert (pixels_of(tmp_path / "out" / "subject0" / "00.png") == pixels_of(tmp_path / "src" / "3.png")).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_goes_on(
    tmp_path: Path, converted: list[str], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    plan = make_plan(tmp_path / "src")
    counting = run_module.convert_image

    def failing(item: Item, *rest: Any) -> int:
        if item.source == "2.png":
            raise error
        return counting(item, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "convert_image", failing)
        with pytest.raises(error):
            convert(plan, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert not list((tmp_path / "out").rglob("*.partial"))
    with (tmp_path / "out" / "conversion.jsonl").open("a") as journal:
        journal.write('{"name": "subj')  # killed in the middle of a line
    converted.clear()
    assert convert(plan, tmp_path / "out").images == 4
    assert converted[:2] == ["2.png", "3.png"]
    assert convert(plan, tmp_path / "out").images == 4


def test_dropped_images_stay_dropped_without_being_read(tmp_path: Path, converted: list[str]) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "1.png").write_bytes(b"nothing")
    plan = make_plan(tmp_path / "src")
    first = convert(plan, tmp_path / "out")
    assert [(entry.file, entry.reason) for entry in first.dropped] == [("1.png", "unreadable image")]
    converted.clear()
    assert convert(plan, tmp_path / "out") == first
    assert converted == []


@pytest.mark.parametrize("step", ["read_photo", "open_picture", "decode_photo", "crop_image"])
@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "out of memory"),
    ],
)
def test_what_the_machine_could_not_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception, detail: str
) -> None:
    plan = make_plan(tmp_path / "src")

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(image_module, step, fail)
        with pytest.raises(ConfigError, match=rf"dropped 4: can't be read now, run again \(first: 0\.png: {detail}\)"):
            convert(plan, tmp_path / "out", 16)
    assert convert(plan, tmp_path / "out", 16).images == 4


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "src")
    with locked(tmp_path / "out"), pytest.raises(OccupiedError, match="out: another nvb-face is writing here"):
        convert(plan, tmp_path / "out")
    assert convert(plan, tmp_path / "out").images == 4


@pytest.mark.parametrize(("orientation", "is_turned"), [(0, False), (1, False), (2, True), (8, True), (9, False)])
def test_pictures_turned_by_an_exif_tag(tmp_path: Path, orientation: int, is_turned: bool) -> None:
    plan = make_plan(tmp_path / "src")
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(tmp_path / "src" / "2.png") as picture:
        picture.save(tmp_path / "src" / "2.png", exif=exif)
    label = (1.0, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 2.7, 0, 0, 0, 1, 4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1)
    plan = finish("test", tmp_path / "src", [Item(i.subject, i.view, i.source, label) for i in plan.items])
    dropped = [(entry.file, entry.reason) for entry in convert(plan, tmp_path / "out").dropped]
    assert dropped == ([("2.png", "turned by an EXIF tag")] if is_turned else [])


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    convert(make_plan(tmp_path / "src"), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"other settings: side None \(not 16\); choose another --out"):
        convert(make_plan(tmp_path / "src"), tmp_path / "out", 16)
    with pytest.raises(ConfigError, match=r"crop None \(not True\)"):
        convert(make_plan(tmp_path / "src", crop=True), tmp_path / "out")


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "src")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset.json").write_text("{}")
    with pytest.raises(OutputError, match="no conversion has left"):
        convert(plan, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "conversion.jsonl").write_text("no\n")
    with pytest.raises(ConfigError, match="not the journal of a conversion"):
        convert(plan, tmp_path / "other")
    for out in (tmp_path / "src", tmp_path / "src" / "new" / "out"):  # a second run would convert what the first made
        with pytest.raises(ConfigError, match="is the source itself or lies in it"):
            convert(plan, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"can.t be written"):
        convert(plan, tmp_path / "file")


def test_nothing_left_is_an_error_with_a_report(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "src")
    with pytest.raises(ConfigError, match=r"no image is left; dropped 4: too small \(first: 0.png: 32 px, 64 are"):
        convert(plan, tmp_path / "out", 64)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["dropped"]["too small"]["count"] == 4
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_names_that_collide_are_dropped(tmp_path: Path) -> None:
    for i, name in enumerate(("a.png", "A.png")):
        save_picture(tmp_path / "src" / str(i) / name, i)
    items = [Item("s", "a", "0/a.png", None), Item("s", "A", "1/A.png", None)]
    report = convert(finish("test", tmp_path / "src", items), tmp_path / "out")
    assert [(e.file, e.reason) for e in report.dropped] == [("1/A.png", "name like that of another image")]


def test_images_behind_links_and_of_unknown_formats(tmp_path: Path) -> None:
    for name in ("src/b/0.png", "src/.hidden/1.png", "elsewhere/2.png", "elsewhere/deep/3.JPG"):
        save_picture(tmp_path / name, 0)
    for name in ("b/4.HEIC", "b/5.nef", "b/notes.txt"):
        (tmp_path / "src" / name).write_bytes(b"")
    links = {"a": "src/b", "more": "elsewhere", "elsewhere/deep/up": "elsewhere", "src/b/gone": "nowhere"}
    for name, target in links.items():
        link = tmp_path / (name if "/" in name else f"src/{name}")
        link.symlink_to(tmp_path / target)
    images, others = list_images(tmp_path / "src")
    assert images == ["b/0.png", "more/2.png", "more/deep/3.JPG"]
    assert [(entry.file, entry.reason) for entry in others] == [
        ("b/4.HEIC", "format that isn't read"),
        ("b/5.nef", "format that isn't read"),
    ]
    assert others[0].detail.startswith("expected JPEG, ")


def test_links_do_not_lead_into_what_was_converted(tmp_path: Path) -> None:
    save_picture(tmp_path / "src/0.png", 0)
    (tmp_path / "src/all").symlink_to(tmp_path)
    for _ in range(2):
        plan = plan_faces(tmp_path / "src", crop=False, margin=1.0, subjects="image")
        assert convert(plan, tmp_path / "out").images == 1
    assert list_images(tmp_path / "out")[0]  # which may be a source itself


def test_no_images_at_all(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(ConfigError, match=r"no image is left; there is none; expected JPEG, .* files"):
        convert(finish("test", tmp_path / "src", []), tmp_path / "out")


def test_clean_names() -> None:
    assert clean_name("img0001.a_b-c") == "img0001.a_b-c"
    names = {clean_name(text) for text in ("é", "ü", "a b", "a-b", "..", "../x", "x" * 300, "caf\udce9")}
    assert len(names) == 8
    assert all(name and not name.startswith(".") and "/" not in name and len(name) < 100 for name in names)
