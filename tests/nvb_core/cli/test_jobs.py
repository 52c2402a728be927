from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nvb_core.cli.jobs import Job, plan_jobs, unique_stems
from nvb_core.errors import ConfigError, ImageError

OUT = Path("out")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/a.png", "sub/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(jobs: list[Job]) -> list[tuple[str, str]]:
    return [(job.photo.as_posix(), job.folder.as_posix()) for job in jobs]


@pytest.mark.usefixtures("photos")
class TestPlanJobs:
    def test_one_photo_goes_into_out_itself(self) -> None:
        assert names(plan_jobs(["b.png"], OUT, False)) == [("b.png", "out")]

    def test_one_photo_with_all_its_faces_gets_a_folder(self) -> None:
        assert names(plan_jobs(["b.png"], OUT, True)) == [("b.png", "out/b")]

    def test_folder_gives_its_images_sorted(self) -> None:
        assert names(plan_jobs(["."], OUT, False)) == [("a.JPG", "out/a"), ("b.png", "out/b")]

    def test_patterns_reach_into_folders(self) -> None:
        found = plan_jobs(["**/*.png"], OUT, False)
        assert names(found) == [("b.png", "out/b"), ("sub/a.png", "out/a")]

    def test_a_photo_named_twice_is_one_job_and_same_stems_are_told_apart(self) -> None:
        found = plan_jobs(["sub/a.png", ".", "sub", "./b.png"], OUT, False)
        assert names(found) == [
            ("sub/a.png", "out/a"),
            ("a.JPG", "out/a-2"),
            ("b.png", "out/b"),
            ("sub/c.webp", "out/c"),
        ]

    def test_missing_files_are_kept_to_be_reported_in_turn(self) -> None:
        assert names(plan_jobs(["missing.png", "b.png"], OUT, False)) == [
            ("missing.png", "out/missing"),
            ("b.png", "out/b"),
        ]

    def test_files_that_cannot_be_reached_are_kept_too(self) -> None:
        long = "x" * 300 + ".png"
        assert [job.photo.name for job in plan_jobs([long, "b.png"], OUT, False)] == [long, "b.png"]

    @pytest.mark.parametrize("argument", ["folder.png", "nothing/*.png", "*.txt"])
    def test_nothing_found_names_the_argument(self, argument: str) -> None:
        with pytest.raises(ConfigError) as caught:
            plan_jobs(["b.png", argument], OUT, False)
        assert str(caught.value).startswith(f"{argument}: no photo")

    def test_no_arguments(self) -> None:
        with pytest.raises(ConfigError, match="no photos given"):
            plan_jobs([], OUT, False)

    def test_an_empty_name_is_not_the_current_folder(self, photos: Path) -> None:
        with pytest.raises(ConfigError, match="a photo's name is empty"):
            plan_jobs(["b.png", ""], OUT, False)

    def test_a_file_whose_name_looks_like_a_pattern(self, photos: Path) -> None:
        (photos / "a[1].png").write_text("")
        assert names(plan_jobs(["a[1].png"], OUT, False)) == [("a[1].png", "out")]

    @pytest.mark.parametrize(("method", "argument"), [("iterdir", "sub"), ("is_file", "sub/*")])
    def test_what_cannot_be_listed(self, method: str, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(self: Path) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, method, denied)
        with pytest.raises(ImageError, match=rf"{re.escape(argument)}: can't be listed \(Permission denied\)"):
            plan_jobs([argument], OUT, False)


class TestResultsOfEarlierRuns:
    @pytest.fixture(autouse=True)
    def _results(self, photos: Path) -> None:
        for name, key in (
            ("sheet.PNG", "ours"),
            ("sub/c_000.png", "ours"),
            ("else.png", "theirs"),
            ("big/b.png", "ours"),
        ):
            info = PngInfo()
            info.add_itxt(key, "{}")
            Path(name).parent.mkdir(exist_ok=True)
            Image.new("L", (4, 4)).save(photos / name, pnginfo=info)

    def plan(self, *arguments: str) -> list[str]:
        return [job.photo.as_posix() for job in plan_jobs(arguments, OUT, False, results=("ours", "also"))]

    def test_are_no_photos_in_folders_and_patterns(self) -> None:
        assert self.plan(".") == ["a.JPG", "b.png", "else.png"]
        assert self.plan("**/*.png") == ["b.png", "else.png", "sub/a.png"]

    def test_are_photos_if_named_or_if_nobody_asks(self) -> None:
        assert self.plan("sheet.PNG", "sub") == ["sheet.PNG", "sub/a.png", "sub/c.webp"]
        assert len(plan_jobs(["."], OUT, False)) == 4

    def test_alone_are_an_error_that_says_so(self) -> None:
        with pytest.raises(ConfigError, match="big: holds only results of this command; name those files"):
            self.plan("big")

    def test_huge_and_damaged_pictures_are_left_to_their_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for limit in (10, 2):  # a warning, which is an error here, and an error
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            assert "else.png" in self.plan(".")


def test_unique_stems() -> None:
    paths = [Path(p) for p in ("a.jpg", "x/a.jpg", "A.png", "a-2.jpg", "..jpg")]
    assert unique_stems(paths) == ["a", "a-2", "A-3", "a-2-2", "photo"]
    assert unique_stems(paths, reserved=("a",)) == ["a-2", "a-3", "A-4", "a-2-2", "photo"]


def test_overlong_stems_leave_room_for_more_in_a_name() -> None:
    found = unique_stems([Path(f"{stem * 120}.jpg") for stem in ("é", "é", "a")])
    assert found == ["é" * 100, "é" * 100 + "-2", "a" * 120]


@given(st.lists(st.text(st.sampled_from("aAb-2."), min_size=1, max_size=4), max_size=12))
@settings(deadline=None, max_examples=100)
def test_stems_never_collide_even_where_case_does_not_count(stems: list[str]) -> None:
    found = unique_stems([Path("folder") / f"{stem}.jpg" for stem in stems])
    assert len({name.casefold() for name in found}) == len(stems)
    assert not {"", ".", ".."} & set(found)
