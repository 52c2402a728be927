from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from nvb_core.errors import NVBError
from tests.training.data.nersemble.made_up import HEIGHT, WIDTH, colours, write_video
from training.data.nersemble.colour import colour_fault, correct_colours
from training.data.nersemble.frames import (
    VideoError,
    VideoInfo,
    choose_timesteps,
    common_timeline,
    extract_frames,
    probe_video,
)

FULL = (2200, 3208)


def info(frames: int = 100, fps: float = 73.0, size: tuple[int, int] = FULL) -> VideoInfo:
    return VideoInfo(frames, fps, size)


def test_frames_are_those_asked_for(tmp_path: Path) -> None:
    write_video(tmp_path / "cam_1.mp4", camera=2, frames=7, fps=24)
    probed = probe_video(tmp_path / "cam_1.mp4")
    assert (probed.frames, probed.size_px) == (7, (WIDTH, HEIGHT))
    assert probed.fps == pytest.approx(24)
    frames = extract_frames(tmp_path / "cam_1.mp4", probed, [0, 3, 6], tmp_path / "1.rgb")
    assert frames.shape == (3, HEIGHT, WIDTH, 3)
    for frame, timestep in zip(frames, (0, 3, 6), strict=True):
        assert np.abs(frame.mean(axis=(0, 1)) - colours(timestep, 2)).max() < 4


def test_many_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "cam_1.mp4", camera=0, frames=160, size=(16, 16))
    probed = probe_video(tmp_path / "cam_1.mp4")
    timesteps = choose_timesteps(160, 150)
    frames = extract_frames(tmp_path / "cam_1.mp4", probed, timesteps, tmp_path / "1.rgb")
    assert len(frames) == 150
    for frame, timestep in zip(frames[:14], timesteps, strict=False):  # later ones are as red as can be
        assert abs(float(frame[..., 0].mean()) - colours(timestep, 0)[0]) < 4


@pytest.mark.parametrize("name", ["a:b/cam.mp4", "-x.mp4", "100%d.mp4", "[x]*?.mp4", "pipe:1"])
def test_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_video(tmp_path / "plain.mp4", camera=0)
    Path(tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "plain.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    frames = extract_frames(Path(name), probe_video(Path(name)), [1, 4], Path(f"{name}.rgb"))
    assert round((float(frames[1][..., 0].mean()) - 40) / 15) == 4


def test_an_ffmpeg_that_is_killed_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "ffmpeg"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(killed))
    for attempt in (
        lambda: probe_video(tmp_path / "cam_1.mp4"),
        lambda: extract_frames(tmp_path / "cam_1.mp4", info(), [0], tmp_path / "1.rgb"),
    ):
        with pytest.raises(NVBError, match="ffmpeg was ended by signal 9; free memory and run again") as caught:
            attempt()
        assert not isinstance(caught.value, VideoError)


def test_an_ffmpeg_that_crashes_has_met_a_bad_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "ffmpeg"
    crashing.write_text("#!/bin/sh\nkill -11 $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(crashing))
    with pytest.raises(VideoError, match=r"cam_1\.mp4: not a readable video"):
        probe_video(tmp_path / "cam_1.mp4")


def test_frame_that_is_not_there(tmp_path: Path) -> None:
    write_video(tmp_path / "cam_1.mp4", camera=0, frames=4)
    probed = probe_video(tmp_path / "cam_1.mp4")
    with pytest.raises(VideoError, match="a frame is missing"):
        extract_frames(tmp_path / "cam_1.mp4", probed, [1, 4], tmp_path / "1.rgb")


def cut(source: Path, target: Path, *options: str) -> Path:
    """Packets of a video copied by ffmpeg, with their times."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", source, "-c", "copy", *options, target]
    subprocess.run(command, check=True)
    return target


def test_frame_lost_in_the_middle_is_not_counted_over(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.mp4", camera=0, frames=9, every_frame_whole=True)
    lost = cut(tmp_path / "whole.mp4", tmp_path / "lost.mp4", "-bsf:v", r"noise=drop=eq(n\,4)")
    with pytest.raises(VideoError, match=r"lost.mp4: its frames aren't evenly timed behind 0\.120 s"):
        probe_video(lost)
    assert probe_video(tmp_path / "whole.mp4").frames == 9


def test_end_cut_off_is_an_early_end(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.mp4", camera=0, frames=9, every_frame_whole=True)
    probed = probe_video(cut(tmp_path / "whole.mp4", tmp_path / "short.mp4", "-frames:v", "5"))
    assert (probed.frames, probed.start_s) == (5, 0)


def test_start_cut_off(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.mp4", camera=0, frames=9, every_frame_whole=True)
    late = cut(tmp_path / "whole.mp4", tmp_path / "late.mp4", "-bsf:v", r"noise=drop=lt(n\,2)", "-copyts")
    probed = probe_video(late)
    assert (probed.frames, probed.start_s) == (7, pytest.approx(0.08))


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cam_1.mp4").write_bytes(content)
    with pytest.raises(VideoError, match="not a readable video"):
        probe_video(tmp_path / "cam_1.mp4")


def test_damaged_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "cam_1.mp4", camera=0, frames=6)
    probed = probe_video(tmp_path / "cam_1.mp4")
    data = bytearray((tmp_path / "cam_1.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov")
    middle = start + (end - start) // 3
    data[middle:end] = b"\xff" * (end - middle)
    (tmp_path / "cam_1.mp4").write_bytes(data)
    with pytest.raises(VideoError, match="can't be decoded"):
        extract_frames(tmp_path / "cam_1.mp4", probed, [0, 5], tmp_path / "1.rgb")


def test_timeline_of_the_majority() -> None:
    videos = {
        "a": info(),
        "b": info(size=(550, 802)),
        "c": info(frames=60),
        "d": info(fps=25.0),
        "e": info(frames=101),
        "f": info(size=(3208, 2200)),
        "g": info(fps=73.02),
        "h": replace(info(frames=99), start_s=1 / 73),
        "i": replace(info(), start_s=0.002),
    }
    timeline = common_timeline(videos, FULL)
    assert timeline.length == 100
    assert sorted(timeline.cameras) == ["a", "b", "c", "g", "i"]
    assert timeline.faults == {
        "d": ("another frame rate than most", "25 Hz, most have 73 Hz"),
        "e": ("more frames than most", "101, most have 100"),
        "f": ("size doesn't fit the calibration", "3208x2200 px, calibrated for 2200x3208 px"),
        "h": ("another start than most", "0.014 s, most start at 0.000 s"),
    }
    assert common_timeline({}, FULL).length == 0


def test_timesteps_are_spread() -> None:
    assert choose_timesteps(100, 4) == [12, 37, 62, 87]
    assert choose_timesteps(3, 4) == [0, 1, 2]
    assert choose_timesteps(1, 1) == [0]
    assert choose_timesteps(0, 4) == []


def test_identity_keeps_all_levels() -> None:
    levels = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    for terms in (3, 4, 10, 22):
        assert np.array_equal(correct_colours(levels, torch.eye(3, terms)), levels)


def test_linear_light_is_what_is_multiplied() -> None:
    half = correct_colours(np.full((1, 1, 3), 255, dtype=np.uint8), 0.5 * torch.eye(3))
    assert half.tolist() == [[[188, 188, 188]]]  # sRGB of half the light
    swapped = correct_colours(np.array([[[10, 20, 30]]], dtype=np.uint8), torch.eye(3)[[2, 1, 0]])
    assert swapped.tolist() == [[[30, 20, 10]]]


def test_polynomials_as_the_kit() -> None:
    """Values of nersemble-data 0.0.6's correct_color, times 255 and rounded; its -83 is clipped."""
    pixels = np.array([[[200, 120, 60], [3, 250, 90]]], dtype=np.uint8)
    for terms, expected in {
        11: [[202, 132, 76], [47, 246, 106]],
        22: [[194, 122, 77], [0, 249, 88]],
    }.items():
        steps = 0.01 * torch.arange(1, 1 + 3 * terms, dtype=torch.float64).reshape(3, terms) % 0.13 - 0.06
        assert correct_colours(pixels, torch.eye(3, terms, dtype=torch.float64) + steps)[0].tolist() == expected


@pytest.mark.parametrize(
    ("matrix", "fault"),
    [
        (torch.eye(3, 11).tolist(), None),
        (None, "no 3 rows"),
        ([[1.0] * 4] * 2, "no 3 rows"),
        ([[1.0] * 6] * 3, "rows of 6, 6, 6 numbers"),
        ([[1.0] * 4, [1.0] * 4, [1.0] * 3], "rows of 4, 4, 3"),
        ([[1.0, 0.0, float("inf")]] * 3, "not a finite"),
        ([[True, 0.0, 0.0]] * 3, "not a finite"),
    ],
)
def test_colour_faults(matrix: object, fault: str | None) -> None:
    found = colour_fault(matrix)
    assert found is None if fault is None else found is not None and fault in found
