"""The same timesteps out of all cameras' videos. Frame i of a video is timestep i: nothing is ever paired otherwise."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nvb_core.errors import NVBError, OutputError

MAX_RATE_DIFFERENCE = 0.01  # relative
KILLED = (-9, -15)
"""Exit codes of what others have ended (SIGKILL, SIGTERM); an ffmpeg that crashes has met a bad video."""

_STREAM = re.compile(r"Stream #0:\d+.*: Video: ")
_TIME_BASE = re.compile(r"^#tb 0: (\d+)/(\d+)$", re.MULTILINE)
_SIZE, _RATE = re.compile(r", (\d+)x(\d+)[, ]"), re.compile(r", ([\d.]+) fps")


class VideoError(NVBError):
    """A video that can't be read."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds."""

    frames: int
    fps: float
    size_px: tuple[int, int]  # width and height
    start_s: float = 0.0  # time of the first frame


@dataclass(frozen=True)
class Timeline:
    """The cameras (by serial) whose frames are of the same times, and what keeps the others out."""

    length: int  # frames that most of the cameras have
    cameras: dict[str, VideoInfo]  # some may end early
    faults: dict[str, tuple[str, str]]  # reason and detail


def probe_video(path: Path) -> VideoInfo:
    """Frames (those that the file really holds, counted without decoding), rate, size and start. Raises VideoError."""
    done = _ffmpeg("info", "-copyts", "-i", _url(path), "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "pipe:1")
    header = done.stderr.decode("utf-8", "replace").partition("Output #0")[0]
    stream = next((line for line in header.splitlines() if _STREAM.search(line)), "")
    size, rate, times = _SIZE.search(stream), _RATE.search(stream), _frame_times(done.stdout.decode())
    if size is None or rate is None or len(times) < 1 or not float(rate[1]) > 0:
        raise VideoError(f"{path}: not a readable video ({_last_line(header)})")
    if "rotation of" in header:
        raise VideoError(f"{path}: is marked as turned, so that its pixels aren't those of the calibration")
    steps = np.diff(times)
    uneven = np.flatnonzero(np.abs(steps - np.median(steps)) > 0.5 * np.median(steps)) if len(steps) else steps
    if len(uneven):
        at_s = float(times[uneven[0]])
        raise VideoError(f"{path}: its frames aren't evenly timed behind {at_s:.3f} s, so that one can't count on them")
    return VideoInfo(len(times), float(rate[1]), (int(size[1]), int(size[2])), float(times[0]))


def common_timeline(videos: Mapping[str, VideoInfo], full_size_px: tuple[int, int]) -> Timeline:
    """The timeline of the majority of the videos, by serial.

    A video of another frame rate, of another start, of more frames or of another aspect ratio than the calibrated
    `full_size_px` is left out; one of fewer frames ends early, and lacks the timesteps behind that.
    """
    faults: dict[str, tuple[str, str]] = {}
    rate = _most_frequent([round(info.fps, 2) for info in videos.values()])
    start_s = _most_frequent([round(info.start_s, 3) for info in videos.values()])
    for serial, info in videos.items():
        width, height = info.size_px
        if abs(width / full_size_px[0] * full_size_px[1] - height) > 1:
            calibrated = f"{full_size_px[0]}x{full_size_px[1]} px"
            faults[serial] = "size doesn't fit the calibration", f"{width}x{height} px, calibrated for {calibrated}"
        elif abs(info.fps / rate - 1) > MAX_RATE_DIFFERENCE:
            faults[serial] = "another frame rate than most", f"{info.fps:g} Hz, most have {rate:g} Hz"
        elif abs(info.start_s - start_s) * rate > 0.5:
            faults[serial] = "another start than most", f"{info.start_s:.3f} s, most start at {start_s:.3f} s"
    length = _most_frequent([info.frames for serial, info in videos.items() if serial not in faults])
    for serial, info in videos.items():
        if serial not in faults and info.frames > length:
            faults[serial] = "more frames than most", f"{info.frames}, most have {length:g}"
    kept = {serial: info for serial, info in videos.items() if serial not in faults}
    return Timeline(int(length), kept, faults)


def choose_timesteps(length: int, count: int) -> list[int]:
    """At most `count` timesteps of 0 to length - 1, the middles of as many equal parts."""
    count = min(count, length)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def extract_frames(path: Path, info: VideoInfo, timesteps: list[int], target: Path) -> np.ndarray:
    """The frames (T, H, W, 3) uint8 at rising `timesteps`, as a memory map of the raw file `target`, which is written.

    Raises VideoError if any frame up to the last is damaged, since those behind it would be miscounted.
    """
    graph = f"select={_any_of(timesteps)},setpts=N/FRAME_RATE/TB"  # evenly timed, so that none is dropped or doubled
    done = _ffmpeg(
        "error",
        *("-i", _url(path), "-map", "0:v:0", "-vf", graph, "-frames:v", str(len(timesteps))),
        *("-pix_fmt", "rgb24", "-f", "rawvideo", "-y", _url(target)),
    )
    width, height = info.size_px
    shape = (len(timesteps), height, width, 3)
    written = target.stat().st_size if target.exists() else 0
    complaint = _last_line(done.stderr.decode("utf-8", "replace"))
    if "No space left" in complaint:
        raise OutputError(f"{target.parent}: can't be written ({complaint}); free some space or choose another --out")
    if done.returncode or complaint or written != np.prod(shape):
        raise VideoError(f"{path}: can't be decoded ({complaint or 'a frame is missing'})")
    return np.memmap(target, np.uint8, "r+", shape=shape)


def _any_of(timesteps: list[int]) -> str:
    """Whether frame n is among these, for ffmpeg: a sum in brackets, since it takes only a hundred terms in a row."""
    if len(timesteps) == 1:
        return f"eq(n\\,{timesteps[0]})"
    half = len(timesteps) // 2
    return f"({_any_of(timesteps[:half])}+{_any_of(timesteps[half:])})"


def _url(path: Path) -> str:
    """A file's name for ffmpeg, which takes what is before a colon for a protocol."""
    return f"file:{path}"


def _frame_times(listing: str) -> np.ndarray:
    """Rising times in seconds of the frames in ffmpeg's framecrc listing; empty if it says none."""
    base = _TIME_BASE.search(listing)
    packets = [line.split(",") for line in listing.splitlines() if line and not line.startswith("#")]
    ticks = sorted(int(packet[2]) for packet in packets)
    return np.array(ticks) * (int(base[1]) / int(base[2])) if base else np.array([])


def _most_frequent(values: list[float] | list[int]) -> float:
    """The value that comes most often, of those the largest; 0 if there is none."""
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], value), default=0)


def _ffmpeg(verbosity: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-v", verbosity, "-nostdin", *arguments]
    # A session of its own: an ffmpeg that Ctrl-C has ended must not look like a damaged video.
    done = subprocess.run(command, capture_output=True, start_new_session=True, check=False)  # noqa: S603
    if done.returncode in KILLED:
        raise NVBError(f"ffmpeg was ended by signal {-done.returncode}; free memory and run again")
    return done


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""
