from __future__ import annotations

import errno
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from nvb_core import detect, outputs
from nvb_core.cameras import Cameras
from nvb_core.cli import degrade, renderer
from nvb_core.detect import FaceBox
from nvb_core.provenance import read_png

Run = Callable[..., tuple[int, list[str]]]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def stamps(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in files(folder)}


class TestResults:
    def test_everything_for_one_photo(self, run: Run, out: Path, photo: Path) -> None:
        arguments = ["--turntable-frames", "3", "--yaw", "-30,0,30", "--pitch", "-10", "--steps", "2", "--center"]
        code, lines = run(*arguments, "--seed", "5", fast=False)
        assert code == 0
        assert len(lines) == 1
        assert "3 views of photo.png" in lines[0]
        names = [f"views/view_0{i}_yaw{yaw}_pitch-10.0.png" for i, yaw in enumerate(("-30.0", "+0.0", "+30.0"))]
        assert files(out) == sorted(["cameras.json", "sheet.png", "turntable.mp4", *names])
        assert Cameras.from_json(out / "cameras.json").angles().yaw_deg.tolist() == pytest.approx([-30, 0, 30])
        record = read_png(out / names[2])
        assert record is not None
        assert record.camera is not None
        assert (record.model, record.seed, record.steps, record.source) == ("tiny", 5, 2, "photo.png")
        assert (record.camera.yaw_deg, record.camera.pitch_deg) == pytest.approx((30, -10))
        manifest = json.loads((out / "cameras.json").read_text())
        assert manifest["request"]["source_sha256"] == record.source_sha256
        assert len(Cameras.from_json(manifest["turntable"])) == 3
        assert pixels(out / names[0]).shape == (32, 32, 3)

    def test_by_itself_takes_the_steps_that_the_model_is_best_with(self, run: Run, out: Path) -> None:
        assert run("--steps", "0")[0] == 0
        record = read_png(next(out.glob("views/view_00*.png")))
        assert record is not None
        assert record.steps == json.loads((out / "cameras.json").read_text())["request"]["sampling"]["steps"] == 3

    def test_grids_are_fitted_to_the_photo_unless_told_otherwise(self, run: Run, out: Path) -> None:
        shown = []
        for arguments, steps in (((), 20), (("--fit-steps", "0", "--overwrite"), 0)):
            assert run("--views", "1", "--no-watermark", *arguments)[0] == 0
            (picture,) = (out / "views").glob("*.png")
            record = read_png(picture)
            assert record is not None
            assert record.fit_steps == steps
            shown.append(pixels(picture))
        assert (shown[0] != shown[1]).any()

    def test_the_mark_can_be_switched_off_the_record_cannot(self, run: Run, out: Path) -> None:
        views = []
        for option in ("--watermark", "--no-watermark"):
            assert run(option)[0] == 0
            view = next(out.glob("views/view_00*.png"))
            views.append(pixels(view))
            assert read_png(view) is not None
        changed = (views[0] != views[1]).any(axis=-1)
        assert changed[-10:, -16:].mean() > 0.8
        assert not changed[:16].any()

    def test_same_seed_same_views_whatever_the_chunk(self, run: Run, out: Path) -> None:
        contents = []
        for arguments in ([], ["--chunk", "1"], ["--seed", "1"]):
            assert run("--overwrite", *arguments)[0] == 0
            contents.append([pixels(path).astype(int) for path in sorted(out.glob("views/*.png"))])
        assert np.abs(np.subtract(contents[0], contents[1])).max() <= 1
        assert np.abs(np.subtract(contents[0], contents[2])).max() > 10

    def test_input_frame_takes_the_known_source_camera(self, run: Run, out: Path) -> None:
        assert run("--frame", "input", "--source-camera", "20,5", "--views", "1")[0] == 0
        angles = Cameras.from_json(out / "cameras.json").angles()
        assert (angles.yaw_deg.item(), angles.pitch_deg.item()) == pytest.approx((20, 5))
        assert files(out / "views") == ["view_00_yaw+0.0_pitch+0.0.png"]

    def test_cameras_of_an_earlier_result(self, run: Run, out: Path, tmp_path: Path) -> None:
        assert run()[0] == 0
        given = Cameras.from_json((out / "cameras.json").rename(tmp_path / "given.json"))
        other = tmp_path / "other"
        arguments = ["--cameras", tmp_path / "given.json", "--steps", "1", "--no-turntable", "--center", "--out", other]
        assert run(*arguments, fast=False)[0] == 0
        assert torch.equal(Cameras.from_json(other / "cameras.json").to_eg3d(), given.to_eg3d())

    def test_the_predictor_moves_the_crop(self, run: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tilted = Cameras.from_angles(0, roll_deg=10)
        monkeypatch.setattr(renderer, "predict_cameras", lambda model, crop: tilted)
        rolls = []
        for option in ("--no-refine", "--refine"):
            assert run(option)[0] == 0
            crop = json.loads((out / "cameras.json").read_text())["crop"]
            rolls.append(crop.pop("roll_deg"))
            assert crop == {"center_x": 30, "center_y": 20, "size_px": 40}
        assert rolls == pytest.approx([0, 20])

    def test_all_faces(self, run: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = [FaceBox(5, 5, 20), FaceBox(30, 5, 15)]
        monkeypatch.setattr(detect, "detect_faces", lambda pixels, every_size: found)
        arguments = ["--steps", "2", "--views", "2", "--no-turntable", "--no-refine", "--face", "all"]
        assert run(*arguments, fast=False)[0] == 0
        assert [p.name for p in sorted((out / "photo").iterdir())] == ["face0", "face1"]
        boxes = [json.loads(p.read_text())["crop"]["center_x"] for p in sorted(out.glob("photo/*/cameras.json"))]
        assert boxes == [15, 37.5]
        (out / "photo" / "face1" / "notes.txt").write_text("mine")
        found += [FaceBox(40, 30, 10)]
        assert run(*arguments, fast=False)[0] == 0
        del found[1:]
        assert run(*arguments, "--overwrite", fast=False)[0] == 0
        assert [p.name for p in sorted((out / "photo").iterdir())] == ["face0", "face1"]
        assert files(out / "photo" / "face1") == ["notes.txt"]


class TestManyPhotos:
    def test_a_bad_one_is_reported_and_the_rest_is_done(self, run: Run, out: Path, photo: Path) -> None:
        bad, last = photo.with_name("bad.png"), photo.with_name("zlast.png")
        bad.write_bytes(photo.read_bytes()[:200])
        last.write_bytes(photo.read_bytes())
        code, lines = run(photos=(photo, bad, photo.with_name("missing.jpg"), last))
        assert code == 2
        assert [line for line in lines if "error" in line] == [lines[1], lines[2]]
        assert str(bad) in lines[1]
        assert "missing.jpg" in lines[2]
        assert lines[-1].startswith("nvb-face: 2 of 4 photos failed: ")
        assert sorted(p.name for p in out.iterdir()) == ["photo", "zlast"]
        assert (out / "zlast" / "cameras.json").exists()

    def test_a_second_run_does_only_what_is_missing(self, run: Run, out: Path, photo: Path) -> None:
        photo.with_name("second.png").write_bytes(photo.read_bytes())
        assert run(photos=(photo.parent / "*.png",))[0] == 0
        before = stamps(out / "photo")
        (out / "second" / "sheet.png").unlink()
        code, lines = run(photos=(photo.parent / "*.png",))
        assert code == 0
        assert "skipped" in lines[0]
        assert "2 views" in lines[1]
        assert stamps(out / "photo") == before
        assert (out / "second" / "sheet.png").exists()


class TestRepeatedRuns:
    def test_finished_is_skipped_without_loading_the_model(
        self, run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert run()[0] == 0
        before = stamps(out)
        monkeypatch.setattr("nvb_core.cli.render.load_model", lambda *a: pytest.fail("loaded the model"))
        code, lines = run("--chunk", "1")
        assert code == 0
        assert "skipped" in lines[0]
        assert stamps(out) == before

    @pytest.mark.parametrize(
        "arguments", [["--overwrite"], ["--seed", "1"], ["--no-watermark"], ["--eta", "0.5"], ["--fit-steps", "0"]]
    )
    def test_other_options_replace_the_result(self, run: Run, out: Path, arguments: list[str]) -> None:
        assert run()[0] == 0
        before = stamps(out)
        assert run(*arguments)[0] == 0
        after = stamps(out)
        assert all(after[name] != stamp for name, stamp in before.items())
        assert files(out.parent) == [f"out/{name}" for name in after]

    def test_another_photo_replaces_the_result_only_if_told_so(self, run: Run, out: Path, photo: Path) -> None:
        assert run()[0] == 0
        before = stamps(out)
        Image.new("RGB", (50, 50), "red").save(photo.with_name("other.png"))
        code, lines = run("--seed", "1", photos=(photo.with_name("other.png"),))
        assert (code, len(lines)) == (2, 1)
        assert f"other.png: {out} holds the result of another photo, photo.png; choose another --out" in lines[0]
        assert stamps(out) == before
        assert run("--overwrite", photos=(photo.with_name("other.png"),))[0] == 0
        assert json.loads((out / "cameras.json").read_text())["provenance"]["source"] == "other.png"

    def test_another_photo_in_the_way_does_not_stop_the_rest(self, run: Run, out: Path, photo: Path) -> None:
        Image.new("RGB", (50, 50), "red").save(photo.with_name("second.png"))
        assert run(photos=(photo, photo.with_name("second.png")))[0] == 0
        Image.new("RGB", (50, 50), "blue").save(photo)
        Image.new("RGB", (50, 50), "green").save(photo.with_name("third.png"))
        code, lines = run(photos=(photo.parent / "*.png",))
        assert code == 2
        assert [any(word in line for line in lines) for word in ("another photo", "second: finished", "third.png")]
        assert sorted(path.name for path in out.iterdir()) == ["photo", "second", "third"]

    def test_results_beside_the_photo_are_not_rendered_again(self, run: Run, photo: Path) -> None:
        folder = photo.parent
        assert run("--out", folder, photos=(folder,))[0] == 0
        before = stamps(folder)
        code, lines = run("--out", folder, photos=(folder,))
        assert (code, len(lines)) == (0, 1)
        assert "finished before, skipped" in lines[0]
        assert stamps(folder) == before

    def test_degraded_pictures_are_photos_their_overview_is_none(self, run: Run, out: Path, photo: Path) -> None:
        degraded = photo.parent / "degraded"
        assert degrade.main([str(photo), "--out", str(degraded), "--grid"]) == 0
        assert run(photos=(degraded,))[0] == 0
        assert json.loads((out / "cameras.json").read_text())["provenance"]["source"] == "photo.png"

    def test_fewer_views_leave_no_old_ones(self, run: Run, out: Path) -> None:
        assert run()[0] == 0
        (out / "views" / ".DS_Store").write_bytes(b"where icons stand")
        assert run("--views", "1")[0] == 0
        assert len(files(out / "views")) == 1

    @pytest.mark.parametrize("arguments", [(), ("--overwrite",)])
    def test_somebodys_own_file_among_the_views_is_never_lost(
        self, run: Run, out: Path, photo: Path, arguments: tuple[str, ...]
    ) -> None:
        second = photo.with_name("second.png")
        second.write_bytes(photo.read_bytes())
        assert run(photos=(photo, second))[0] == 0
        (out / "photo" / "views" / "retouched.png").write_text("mine")
        before = stamps(out / "photo")
        code, lines = run("--seed", "1", *arguments, photos=(photo, second))
        assert code == 2
        assert "retouched.png: isn't of nvb-face and would be lost; move it away" in lines[0]
        assert "second" in lines[1]
        assert stamps(out / "photo") == before


def one_error(result: tuple[int, list[str]], out: Path) -> str:
    """The only line of a failed run that left nothing."""
    code, lines = result
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("nvb-face: error: ")
    assert not out.parent.exists()
    return lines[0]


class TestBadInput:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "empty file"),
            (b"hello", "not a readable image"),
            ("half", "not a readable image"),
            (None, "photo.png"),
        ],
    )
    def test_photo(self, run: Run, out: Path, photo: Path, content: bytes | str | None, words: str) -> None:
        whole = photo.read_bytes()
        photo.unlink()
        if content is not None:
            photo.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
        line = one_error(run(), out)
        assert words in line
        assert str(photo) in line

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--views", "0"], "--views 0 is outside 1 to 1000"),
            (["--views", "10000"], "--views 10000 is outside 1 to 1000"),
            (["--steps", "-1"], "steps is -1"),
            (["--steps", "1001"], "steps is 1001"),
            (["--fit-steps", "1001"], "fit_steps is 1001"),
            (["--turntable-steps", "0"], "--turntable-steps 0"),
            (["--eta", "nan"], "eta is nan"),
            (["--seed", "-1"], "seed is -1"),
            (["--chunk", "-1"], "-1"),
            (["--radius", "0.2"], "radius 0.2"),
            (["--fov", "nan"], "fov_deg"),
            (["--face", "0"], "--face and --center"),
            (["--cameras", "missing.json"], "exclude each other"),
            (["--source-camera", "missing.json"], "missing.json"),
            (["--dtype", "fp16"], "--dtype fp16 needs a GPU"),
        ],
    )
    def test_option(self, run: Run, out: Path, arguments: list[str], words: str) -> None:
        assert words in one_error(run(*arguments), out)

    def test_option_that_does_not_exist(self, run: Run, out: Path) -> None:
        code, lines = run("--colour", "red")
        assert code == 2
        assert any("--colour" in line for line in lines)
        assert not out.parent.exists()

    def test_camera_inside_the_head(self, run: Run, out: Path, tmp_path: Path) -> None:
        path = tmp_path / "inside.json"
        path.write_text('{"format": "nvb-cameras", "version": 1, "cameras": [{"yaw_deg": 0, "radius": 0.1}]}')
        line = one_error(run("--cameras", path, "--no-turntable", "--center", fast=False), out)
        assert "inside.json" in line
        assert "outside the head" in line

    def test_box_outside_the_photo(self, run: Run, out: Path, photo: Path) -> None:
        line = one_error(run("--box", "30,10,40", "--steps", "1", fast=False), out)
        assert f"{photo}: --box 30,10,40 leaves the photo of 60×40 pixels" in line

    def test_no_face(self, run: Run, out: Path, photo: Path) -> None:
        line = one_error(run("--steps", "1", fast=False), out)
        assert str(photo) in line
        assert "--box" in line

    def test_no_photos(self, run: Run, out: Path) -> None:
        assert "no photos given" in one_error(run(photos=()), out)

    @pytest.mark.parametrize("kind", ["missing", "pickle", "text", "nan", "shape", "key", "format", "version"])
    def test_weights(self, run: Run, out: Path, weights: Path, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "bad.safetensors"
        if kind == "pickle":
            path.write_bytes(pickle.dumps({"state_dict": 1}))
        elif kind == "text":
            path.write_text("weights")
        elif kind != "missing":
            write_damaged(weights, path, kind)
        assert str(path) in one_error(run("--weights", path), out)


def write_damaged(good: Path, path: Path, kind: str) -> None:
    from safetensors import safe_open

    with safe_open(good, "pt") as file:
        header = file.metadata()
    tensors = load_file(good)
    name = next(iter(tensors))
    match kind:
        case "nan":
            tensors[name].view(-1)[0] = float("nan")
        case "shape":
            tensors[name] = tensors[name][..., :1].clone()
        case "key":
            del tensors[name]
        case _:
            header[kind] = "other"
    save_file(tensors, path, metadata=header)


class TestOutput:
    def test_below_a_file(self, run: Run, photo: Path, tmp_path: Path) -> None:
        code, lines = run("--out", photo / "x" / "out")
        assert code == 2
        assert len(lines) == 1
        assert "Not a directory" in lines[0]
        assert files(tmp_path) == ["photo.png"]

    def test_folder_with_somebody_elses_views(self, run: Run, out: Path) -> None:
        (out / "views").mkdir(parents=True)
        (out / "views" / "urls.py").write_text("mine")
        code, lines = run()
        assert code == 2
        assert "holds views" in lines[0]
        assert files(out) == ["views/urls.py"]

    @pytest.mark.parametrize("old_result", [False, True])
    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    def test_failing_while_writing(
        self, run: Run, out: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, old_result: bool
    ) -> None:
        if old_result:
            assert run()[0] == 0
        before = stamps(out)
        write_png, calls = outputs.write_png, []

        def fail_at_third(*args: object) -> None:
            calls.append(args)
            if len(calls) == 3:
                raise error
            write_png(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(outputs, "write_png", fail_at_third)
        code, lines = run("--seed", "1")
        assert code == 2
        assert len(lines) == 1
        assert ("No space left on device" in lines[0]) == isinstance(error, OSError)
        assert stamps(out) == before
        assert out.parent.exists() == old_result

    def test_a_full_disk_stops_the_run(self, run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        photo.with_name("second.png").write_bytes(photo.read_bytes())
        monkeypatch.setattr(renderer, "write_face", full)
        code, lines = run(photos=(photo, photo.with_name("second.png")))
        assert code == 2
        assert len(lines) == 1
