from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nvb_core.align import CropBox
from nvb_core.cameras import FOCAL, Cameras
from nvb_core.errors import ConfigError, OccupiedError
from nvb_core.images import load_image, to_uint8
from nvb_core.staging import locked
from tests.training.data.nersemble.made_up import (
    SERIALS,
    camera_params,
    colours,
    head_cameras,
    known_registration,
    video_path,
    write_json,
    write_participant,
    write_video,
)
from training.data.cli import main
from training.data.index import derived_split, read_index
from training.data.nersemble import convert as module
from training.data.nersemble.convert import CaptureReport, GeometryError, Options, check_geometry, convert
from training.data.nersemble.crops import head_crop
from training.data.nersemble.layout import read_capture, read_rig
from training.data.nersemble.registration import Registration, RegistrationError

OPTIONS = Options(size=32, frames_per_sequence=2)


def knowing(root: Path, seen: list[dict[str, int]] | None = None) -> module.Register:
    """A registration that knows the answer, and checks that all pictures are of one frame."""

    def register(pictures: Mapping[str, Tensor], cameras: Mapping[str, Cameras]) -> Registration:
        assert list(pictures) == list(cameras)
        frames = {serial: frame_of(to_uint8(picture)) for serial, picture in pictures.items()}
        assert len(set(frames.values())) == 1
        if seen is not None:
            seen.append(frames)
        return known_registration(root)

    return register


def frame_of(pixels: np.ndarray) -> int:
    return round((float(pixels[..., 0].mean()) - 40) / 15)


def camera_of(pixels: np.ndarray) -> int:
    return round((float(pixels[..., 2].mean()) - 40) / 40)


def run(root: Path, out: Path, options: Options = OPTIONS, register: module.Register | None = None) -> CaptureReport:
    capture = read_capture(root, color_correction=options.color_correction)
    return convert(capture, out, register or knowing(root), options, workers=2, show_progress=False)


def dropped(report: CaptureReport) -> list[tuple[str, str, str]]:
    return sorted((entry.file, entry.reason, entry.detail) for entry in report.dropped)


def test_all_cameras_of_all_timesteps(tmp_path: Path) -> None:
    write_participant(tmp_path / "src")
    report = run(tmp_path / "src", tmp_path / "out")
    index = read_index(tmp_path / "out")
    names = [f"017/EXP-1-head-{t:05d}-{s}.png" for t in (1, 4) for s in sorted(SERIALS)]
    assert list(index.paths) == names
    assert (report.images, report.subjects, report.side_px, report.dropped) == (8, 2, 40, ())
    assert index.subjects == ("017/EXP-1-head-00001",) * 4 + ("017/EXP-1-head-00004",) * 4
    assert index.splits == (derived_split("017"),) * 8
    assert index.meta == {"converted_from": "nersemble", "margin": 1.25}
    poses = dict(zip(SERIALS, head_cameras(), strict=True))
    for name, label in zip(index.paths, Cameras.from_eg3d(index.labels), strict=True):
        timestep, serial = re.fullmatch(r"017/EXP-1-head-(\d+)-(\d+)\.png", name).groups()  # type: ignore[union-attr]
        pixels = to_uint8(load_image(tmp_path / "out" / name).pixels)
        assert pixels.shape == (40, 40, 3)
        assert np.abs(pixels.mean(axis=(0, 1)) - colours(int(timestep), SERIALS.index(serial))).max() < 4
        assert torch.allclose(label.cam2world, poses[serial].cam2world, atol=1e-9)
        assert float(label.intrinsics[0, 0, 0]) == pytest.approx(FOCAL / 1.25)
        centre = label.project(torch.zeros(1, 3, dtype=torch.float64))[0, 0]
        assert centre.tolist() == pytest.approx([0.5, 0.5])
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [entry["timestep"] for entry in written["registrations"]] == ["017/EXP-1-head-00001", "017/EXP-1-head-00004"]
    entry = written["registrations"][0]
    assert (entry["angle_deg"], entry["shift"], entry["used"]) == (0.5, 0.01, list(SERIALS[:3]))
    assert entry["reprojection_px"] < 1e-6
    assert report.lines()[1].startswith("2 timesteps registered: median residual 0.50 degrees, 0.010 EG3D units")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "017",
        "conversion.jsonl",
        "dataset.json",
        "report.json",
    ]


def test_bad_videos_are_left_out_and_the_rest_stays_paired(tmp_path: Path) -> None:
    folder = write_participant(tmp_path / "src")
    write_video(video_path(folder, 0), 0, frames=3)
    write_video(video_path(folder, 1), 1, fps=50)
    seen: list[dict[str, int]] = []
    report = run(tmp_path / "src", tmp_path / "out", register=knowing(tmp_path / "src", seen))
    assert seen == [{serial: 1 for serial in (SERIALS[0], *SERIALS[2:])}, {serial: 4 for serial in SERIALS[2:]}]
    assert [Path(name).stem[-15:] for name in read_index(tmp_path / "out").paths] == [
        *(f"00001-{s}" for s in sorted((SERIALS[0], *SERIALS[2:]))),
        *(f"00004-{s}" for s in sorted(SERIALS[2:])),
    ]
    images = "017/sequences/EXP-1-head/images"
    assert dropped(report) == [
        (f"{images}/cam_{SERIALS[0]}.mp4", "video ends early", "3 of 6 frames: lacks 4"),
        (f"{images}/cam_{SERIALS[1]}.mp4", "another frame rate than most", "50 Hz, most have 25 Hz"),
    ]


def test_unreadable_video_and_missing_serial(tmp_path: Path) -> None:
    folder = write_participant(tmp_path / "src")
    video_path(folder, 2).write_bytes(b"no video")
    params = camera_params()
    del params["world_2_cam"][SERIALS[3]]
    write_json(folder / "calibration" / "camera_params.json", params)

    def register(pictures: Mapping[str, Tensor], cameras: Mapping[str, Cameras]) -> Registration:
        assert sorted(cameras) == sorted(SERIALS[:2])
        return Registration(torch.eye(4, dtype=torch.float64), tuple(pictures), (), 0.0, 0.0)

    report = run(tmp_path / "src", tmp_path / "out", register=register)
    assert [(file[-13:], reason) for file, reason, _ in dropped(report)] == [
        (f"{SERIALS[2]}.mp4", "unreadable video"),
        (f"{SERIALS[3]}.mp4", "camera without calibration"),
    ]
    assert report.images == 4


def test_failed_registration_drops_its_timestep(tmp_path: Path) -> None:
    write_participant(tmp_path / "src")
    known = knowing(tmp_path / "src")

    def register(pictures: Mapping[str, Tensor], cameras: Mapping[str, Cameras]) -> Registration:
        if frame_of(to_uint8(pictures[SERIALS[0]])) == 1:
            raise RegistrationError("2 views agree, 3 are needed")
        return known(pictures, cameras)

    report = run(tmp_path / "src", tmp_path / "out", register=register)
    assert dropped(report) == [("017/EXP-1-head-00001", "registration failed", "2 views agree, 3 are needed")]
    assert report.images == 4

    def failing(pictures: Mapping[str, Tensor], cameras: Mapping[str, Cameras]) -> Registration:
        raise RegistrationError("no face found")

    with pytest.raises(ConfigError, match=r"no image is left; dropped 2: registration failed .*no face found"):
        run(tmp_path / "src", tmp_path / "none", register=failing)
    assert not (tmp_path / "none" / "dataset.json").exists()


def test_goes_on_after_an_interruption(tmp_path: Path) -> None:
    root, out = tmp_path / "src", tmp_path / "out"
    folder = write_participant(root, sequences=("EXP-1-head", "FREE"))
    seen: list[dict[str, int]] = []
    known = knowing(root, seen)

    def killed(pictures: Mapping[str, Tensor], cameras: Mapping[str, Cameras]) -> Registration:
        if len(seen) == 3:
            raise KeyboardInterrupt
        return known(pictures, cameras)

    with pytest.raises(KeyboardInterrupt):
        run(root, out, register=killed)
    assert not (out / "dataset.json").exists()
    assert not (out / ".frames-partial").exists()
    run(root, out, register=known)
    assert [next(iter(frames.values())) for frames in seen] == [1, 4, 1, 1, 4]
    before = (out / "dataset.json").read_bytes()
    run(root, out, register=known)
    assert len(seen) == 5
    assert (out / "dataset.json").read_bytes() == before
    (out / read_index(out).paths[0]).unlink()
    write_video(video_path(folder, 3, "FREE"), 3, frames=2)
    report = run(root, out, register=known)
    assert len(seen) == 9
    assert not (out / f"017/FREE-00004-{SERIALS[3]}.png").exists()
    assert (report.images, len(report.dropped)) == (15, 1)


def test_a_second_batch_adds_to_the_first(tmp_path: Path) -> None:
    root, out = tmp_path / "src", tmp_path / "out"
    first = write_participant(root)
    known = known_registration(root)

    def register(pictures: Mapping[str, Tensor], cameras: Mapping[str, Cameras]) -> Registration:
        return known

    run(root, out, register=register)
    shutil.rmtree(first)  # to make room for the next videos
    write_participant(root, "018")
    report = convert(read_capture(root), out, register, OPTIONS, ("17",), show_progress=False)
    assert (report.images, report.subjects, len(report.registrations)) == (16, 4, 4)
    index = read_index(out)
    assert set(zip((path[:3] for path in index.paths), index.splits, strict=True)) == {
        ("017", "test"),
        ("018", "train"),
    }
    (out / index.paths[0]).unlink()  # what has lost a picture and can't be made anew is left out
    assert run(root, out, register=register).images == 8


def test_pictures_outlive_their_videos(tmp_path: Path) -> None:
    folder = write_participant(tmp_path / "src")
    run(tmp_path / "src", tmp_path / "out")
    for camera in (0, 1):
        video_path(folder, camera).unlink()
    assert run(tmp_path / "src", tmp_path / "out").images == 8
    write_video(video_path(folder, 2), 2, frames=7)  # another one: what is there is converted anew
    write_video(video_path(folder, 3), 3, frames=7)
    assert run(tmp_path / "src", tmp_path / "out").images == 4


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    write_participant(tmp_path / "src")
    with locked(tmp_path / "out"), pytest.raises(OccupiedError, match="out: another nvb-face is writing here"):
        run(tmp_path / "src", tmp_path / "out")
    assert run(tmp_path / "src", tmp_path / "out").images == 8


def test_other_settings_are_refused(tmp_path: Path) -> None:
    write_participant(tmp_path / "src")
    run(tmp_path / "src", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"other settings: color_correction True \(not False\)"):
        run(tmp_path / "src", tmp_path / "out", replace(OPTIONS, color_correction=False))
    with pytest.raises(ConfigError, match="is the source itself"):
        run(tmp_path / "src", tmp_path / "src")


def test_colours_are_corrected(tmp_path: Path) -> None:
    folder = write_participant(tmp_path / "src")
    swapped = torch.eye(3)[[2, 1, 0]].tolist()  # red and blue
    write_json(folder / "calibration" / "color_calibration.json", dict.fromkeys(SERIALS, swapped))
    known = known_registration(tmp_path / "src")
    for out, options in {"out": OPTIONS, "plain": replace(OPTIONS, color_correction=False)}.items():
        run(tmp_path / "src", tmp_path / out, options, lambda pictures, cameras: known)
    name = f"017/EXP-1-head-00004-{SERIALS[1]}.png"
    corrected, plain = (to_uint8(load_image(tmp_path / out / name).pixels) for out in ("out", "plain"))
    assert np.array_equal(corrected, plain[..., ::-1])
    assert np.abs(plain.mean(axis=(0, 1)) - colours(4, 1)).max() < 4


def test_head_at_the_edge_of_some_pictures(tmp_path: Path) -> None:
    write_participant(tmp_path / "src")
    known = known_registration(tmp_path / "src")
    aside = torch.eye(4, dtype=torch.float64)
    aside[0, 3] = 0.2

    def register(pictures: Mapping[str, Tensor], cameras: Mapping[str, Cameras]) -> Registration:
        return replace(known, similarity=aside @ known.similarity)

    report = run(tmp_path / "src", tmp_path / "out", register=register)
    assert {reason for _, reason, _ in dropped(report)} == {"head not in the picture"}
    assert report.images + len(report.dropped) == 8
    assert report.images > 0


def test_nothing_is_enlarged(tmp_path: Path) -> None:
    write_participant(tmp_path / "src")
    with pytest.raises(ConfigError, match=r"no image is left; .*dropped 8: too small .* 160 are asked for"):
        run(tmp_path / "src", tmp_path / "out", replace(OPTIONS, size=128))


def corrupted(change: Callable[[Tensor], Tensor]) -> Callable[..., object]:
    def crop(camera: Cameras, width: int, height: int, margin: float = 1.0) -> object:
        good = head_crop(camera, width, height, margin)
        return replace(good, camera=Cameras.from_eg3d(change(good.camera.to_eg3d())))

    return crop


def shifted(label: Tensor) -> Tensor:
    label[0, 18] += 1 / 40  # the principal point, by one pixel of the crop
    return label


def test_labels_that_contradict_the_calibration_stop_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_participant(tmp_path / "src")
    monkeypatch.setattr(module, "head_crop", corrupted(shifted))
    with pytest.raises(GeometryError, match=r"camera \d+: the label of its crop is 1 px off"):
        run(tmp_path / "src", tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_known_points_through_a_rig_of_16(tmp_path: Path) -> None:
    """Full-size pictures: labels and crops of all 16 cameras against K · world_2_cam, with the rig's own units."""
    yaws = torch.linspace(-90, 90, 16).tolist()
    move = torch.diag(torch.tensor([400.0, 400.0, 400.0, 1.0], dtype=torch.float64))  # in millimetres
    move[:3, 3] = torch.tensor([1000.0, -300.0, 50.0])
    cam2world = move @ Cameras.from_angles(yaws, [20.0, -15.0] * 8).cam2world
    cam2world[:, :3, :3] /= 400
    poses = {f"cam{i}": pose for i, pose in enumerate(torch.linalg.inv(cam2world).tolist())}
    write_json(tmp_path / "rig.json", {**camera_params(), "world_2_cam": poses})
    rig = read_rig(tmp_path / "rig.json")
    to_head = torch.linalg.inv(move)
    similarity = to_head @ torch.linalg.inv(rig.centring)
    for serial, camera in rig.cameras.items():
        crop = head_crop(module.moved_cameras(camera, similarity), 2200, 3208, 1.25)
        label = crop.camera.to_eg3d()[0].tolist()
        assert check_geometry(rig, serial, (2200, 3208), to_head, crop.box, label, 640) < 1e-6
        wrong = CropBox(crop.box.center_x + 2, crop.box.center_y, crop.box.size_px)
        with pytest.raises(GeometryError):
            check_geometry(rig, serial, (2200, 3208), to_head, wrong, label, 640)
        other = "cam0" if serial != "cam0" else "cam1"
        with pytest.raises(GeometryError):
            check_geometry(rig, other, (2200, 3208), to_head, crop.box, label, 640)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--size", "8"], "--size is 8"),
        (["--margin", "3"], "--margin is 3"),
        (["--frames-per-sequence", "0"], "--frames-per-sequence is 0"),
        (["--workers", "0"], "--workers is 0"),
        ([], "gone: no such folder"),
    ],
)
def test_bad_options(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        main(["nersemble", str(tmp_path / "gone"), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_participant(tmp_path / "src")
    monkeypatch.setattr(module, "predicted_registration", lambda weights, device: knowing(tmp_path / "src"))
    out = tmp_path / "out"
    arguments = ["nersemble", str(tmp_path / "src"), "--out", str(out), "--size", "32", "--frames-per-sequence", "1"]
    assert main([*arguments, "--participants", "17", "--test-participants", "017"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == f"wrote {out}: 4 images of 40 px, 1 subjects"
    assert "converting sequences" in printed.err
    assert read_index(out).splits == ("test",) * 4


def test_download_is_the_kits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the kit, found and run as the real one is, that answers with its arguments."""
    kit = tmp_path / "site" / "nersemble_data" / "scripts" / "manage_data.py"
    kit.parent.mkdir(parents=True)
    kit.write_text("import sys, pathlib\npathlib.Path(sys.argv[2] + '.txt').write_text(' '.join(sys.argv[1:]))\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    arguments = ["nersemble", str(tmp_path / "src"), "--out", str(tmp_path / "out"), "--participants", "017", "18"]
    with pytest.raises(ConfigError, match=r"--download needs the official kit; run: pip install"):
        main([*arguments, "--download"])
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(ConfigError, match="src: no such folder"):
        main([*arguments, "--download", "--sequences", "FREE", "HAIR"])
    expected = f"download {tmp_path / 'src'} --participant 17,18 --sequence FREE,HAIR"
    assert (tmp_path / "src.txt").read_text() == expected
    kit.write_text("raise SystemExit(3)")
    with pytest.raises(ConfigError, match=r"download failed \(exit code 3\)"):
        main([*arguments, "--download"])


def test_faces_are_looked_for_by_default(tmp_path: Path) -> None:
    """The built-in model on a picture without a face: the timestep is dropped, and why is said."""
    folder = write_participant(tmp_path / "src")
    for camera in range(1, 4):
        video_path(folder, camera).unlink()
    arguments = ["nersemble", str(tmp_path / "src"), "--out", str(tmp_path / "out"), "--size", "32"]
    with pytest.raises(ConfigError, match=r"no image is left; .*dropped 1: registration failed"):
        main([*arguments, "--frames-per-sequence", "1"])
