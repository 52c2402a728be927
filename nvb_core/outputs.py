"""Files of one rendered face.

    views/view_00_yaw-45.0_pitch+0.0.png ...   the views; names carry the angles in the chosen frame
    sheet.png                                  photo, aligned crop and views on one page
    turntable.mp4                              H.264, there and back again
    cameras.json                               every camera and how it all came about; its presence means "finished"

`cameras.json` is a camera file (see `camera_json`) with more keys beside `cameras`: `images` (one file per camera),
`labels` (EG3D form: [[file, 25 numbers], ...]), `angles` ([yaw, pitch] in `frame`), `source_camera`, `turntable`
(cameras of the video's frames, or null), `crop`, `provenance` and `request` (what was asked for; compared on a re-run).
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .align import CropBox
from .camera_paths import Frame
from .cameras import Cameras
from .errors import OccupiedError, OutputError
from .images import to_pil
from .provenance import CameraRecord, Provenance, mp4_arguments, png_info
from .staging import remove_entries

MARKER = "cameras.json"
ENTRIES = ("views", "sheet.png", "turntable.mp4")
TURNTABLE_FPS = 15
MIN_VIDEO_PX = 256


@dataclass(frozen=True)
class FaceResult:
    """All that is written for one face: N views, and M frames of the turntable."""

    views: Tensor
    """(N, 3, S, S) in [-1, 1]."""
    cameras: Cameras
    """(N)."""
    angles: Sequence[tuple[float, float]]
    """(N) yaw and pitch in degrees, in `frame`, for file names and captions."""
    frame: Frame
    source_camera: Cameras
    """(1) camera of the aligned crop."""
    crop: CropBox
    """Where in the photo the aligned crop lies."""
    sheet: Image.Image
    provenance: Provenance
    request: dict[str, Any]
    """JSON-able description of what was asked for."""
    turntable: Tensor | None = None
    """(M, 3, S, S) in [-1, 1]."""
    turntable_cameras: Cameras | None = None
    """(M)."""
    turntable_steps: int = 0
    """Denoising steps of the turntable."""


def write_face(result: FaceResult, folder: Path) -> None:
    """Write all files into the existing, empty `folder`; `cameras.json` last. Raises OSError or OutputError."""
    records = camera_records(result.cameras)
    names = [f"views/{view_name(i, *angles, count=len(records))}" for i, angles in enumerate(result.angles)]
    (folder / "views").mkdir()
    for image, name, record in zip(result.views, names, records, strict=True):
        write_png(to_pil(image), folder / name, replace(result.provenance, camera=record))
    write_png(result.sheet, folder / "sheet.png", result.provenance)
    if result.turntable is not None:
        provenance = replace(result.provenance, steps=result.turntable_steps)
        write_mp4(ping_pong(result.turntable), folder / "turntable.mp4", provenance)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in _manifest(result, names).items()]
    (folder / MARKER).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def view_name(index: int, yaw_deg: float, pitch_deg: float, count: int) -> str:
    """File name of a view: `view_03_yaw+30.0_pitch-10.0.png`; names of `count` views sort by index."""
    digits = max(2, len(str(count - 1)))
    return f"view_{index:0{digits}d}_yaw{_signed(yaw_deg)}_pitch{_signed(pitch_deg)}.png"


def write_png(image: Image.Image, path: Path, provenance: Provenance) -> None:
    """Save with the provenance in text chunks."""
    image.save(path, format="PNG", pnginfo=png_info(provenance))


def write_mp4(frames: Tensor, path: Path, provenance: Provenance, fps: int = TURNTABLE_FPS) -> None:
    """Frames (M, 3, H, W) in [-1, 1] as H.264 yuv420p, enlarged to at least 256 px so that players show them well."""
    size = video_size(*frames.shape[-2:])
    data = b"".join(np.asarray(to_pil(f).resize(size, Image.Resampling.LANCZOS)).tobytes() for f in frames)
    command = [_ffmpeg(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{size[0]}x{size[1]}", "-r", str(fps), "-i", "-", "-an", "-c:v", "libx264", "-crf", "16"]
    command += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", *mp4_arguments(provenance), "-f", "mp4"]
    command.append(f"file:{path}")  # or a name with a colon would be taken for a protocol
    # A session of its own: Ctrl-C must reach this process only, which then ends ffmpeg and removes the file.
    done = subprocess.run(command, input=data, capture_output=True, start_new_session=True, check=False)  # noqa: S603
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise OutputError(f"{path}: ffmpeg can't write the video ({reason[-1]}); free some space or use --no-turntable")


def _ffmpeg() -> str:
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:  # on machines that its wheel has no program for
        raise OutputError(
            "no ffmpeg for the video; install one, set IMAGEIO_FFMPEG_EXE, or use --no-turntable"
        ) from error


def video_size(height: int, width: int) -> tuple[int, int]:
    """Width and height of the video of such frames: enlarged by a whole factor to at least 256 px, and even."""
    factor = max(1, math.ceil(MIN_VIDEO_PX / min(height, width)))
    return width * factor // 2 * 2, height * factor // 2 * 2


def ping_pong(frames: Tensor) -> Tensor:
    """Frames (M, ...) there and back again (2M - 2, ...), without showing the turning points twice."""
    back = list(range(len(frames) - 2, 0, -1))
    return frames[[*range(len(frames)), *back]]


def camera_records(cameras: Cameras) -> list[CameraRecord]:
    """Angles of the cameras in the frame `face`, for metadata."""
    angles = cameras.angles()
    columns = (angles.yaw_deg, angles.pitch_deg, angles.roll_deg, angles.radius, angles.fov_deg)
    return [CameraRecord(*(round(float(value), 6) for value in row)) for row in zip(*columns, strict=True)]


def is_finished(folder: Path, request: dict[str, Any]) -> bool:
    """Whether `folder` holds the complete result of the very same request."""
    manifest = read_manifest(folder)
    if manifest is None or manifest["request"] != json.loads(json.dumps(request)):
        return False
    expected = ["sheet.png", *manifest["images"], *(["turntable.mp4"] if manifest["turntable"] else [])]
    return all((folder / name).is_file() for name in expected)


def other_source(folder: Path, source_sha256: str) -> str | None:
    """Name of the photo whose result `folder` holds, if it's another than the one with this hash."""
    manifest = read_manifest(folder)
    if manifest is None or manifest["provenance"].get("source_sha256") == source_sha256:
        return None
    return str(manifest["provenance"].get("source"))


def may_replace(folder: Path) -> bool:
    """Whether `folder` holds a finished result. Raises OccupiedError if there are others' files under its names."""
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    own = {folder / name for name in manifest["images"]}
    video = [] if manifest["turntable"] else [folder / "turntable.mp4"]
    for path in (*sorted((folder / "views").rglob("*")), *video):
        # What file managers leave is nobody's work.
        if path.is_file() and path not in own and not path.name.startswith(".") and path.name != "Thumbs.db":
            raise OccupiedError(f"{path}: isn't of nvb-face and would be lost; move it away or choose another --out")
    return True


def remove_face(folder: Path) -> None:
    """Remove a finished result and, if nothing else is in it, its folder. Raises OSError or OccupiedError."""
    if may_replace(folder):
        remove_entries(folder, (MARKER, *ENTRIES))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The `cameras.json` in `folder`, or None if there is none that `write_face` wrote."""
    try:
        manifest = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    keys = {"request", "images", "turntable", "provenance"}
    if not isinstance(manifest, dict) or not keys <= manifest.keys() or not isinstance(manifest["provenance"], dict):
        return None
    images = manifest["images"]
    return manifest if isinstance(images, list) and all(isinstance(name, str) for name in images) else None


def _manifest(result: FaceResult, names: Sequence[str]) -> dict[str, Any]:
    labels = [[name, label] for name, label in zip(names, result.cameras.to_eg3d().tolist(), strict=True)]
    turntable = result.turntable_cameras
    return result.cameras.to_json() | {
        "images": list(names),
        "frame": result.frame,
        "angles": [list(pair) for pair in result.angles],
        "labels": labels,
        "source_camera": result.source_camera.to_json(),
        "turntable": None if turntable is None else turntable.to_json(),
        "crop": asdict(result.crop),
        "provenance": asdict(result.provenance),
        "request": result.request,
    }


def _signed(value: float) -> str:
    rounded = round(value, 1)
    return f"{rounded + 0.0:+.1f}"  # + 0.0 turns -0.0 into 0.0
