"""Camera options of `nvb-face render`: text from the command line to poses and cameras."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias

from torch import Tensor

from .. import camera_paths
from ..align import CropBox, crop_cameras
from ..camera_paths import CameraPoses, Frame
from ..cameras import Cameras, Numbers
from ..errors import ConfigError

PathName: TypeAlias = Literal["spread", "sweep", "pitch", "orbit", "figure-eight", "spiral", "grid", "keyframes"]
_PATHS: dict[str, Callable[[int], CameraPoses]] = {
    "sweep": camera_paths.yaw_sweep,
    "pitch": camera_paths.pitch_sweep,
    "orbit": camera_paths.orbit,
    "figure-eight": camera_paths.figure_eight,
    "spiral": camera_paths.spiral,
}
DEFAULT_VIEWS = 8
YAW_RANGE_DEG = 45.0
_SAID_BY_FILE = ("views", "path", "yaw", "pitch", "roll", "radius", "fov", "frame")
MAX_VIEWS = 1000


@dataclass(frozen=True)
class CameraOptions:
    """Which cameras to render from; angles in degrees, see `--frame`."""

    views: int | None = None
    """Number of views on the path, 1 to 1000 (default 8). Lists of --yaw and --pitch bring their own number."""
    path: PathName | None = None
    """How views are laid out (default spread: a yaw sweep and one from above); keyframes joins --yaw and --pitch."""
    yaw: str | None = None
    """Yaw of each view, for example "-30,0,30"; positive moves the camera to the subject's left."""
    pitch: str | None = None
    """Pitch of each view; positive looks from above. One value serves all yaws, and the other way round."""
    roll: float = 0.0
    """Roll of all views; positive turns the pictures clockwise."""
    radius: float | None = None
    """Distance of all cameras from the head's centre; default 2.7, or the photo's in frame input."""
    fov: float | None = None
    """Field of view of all cameras; default 13.4, or the photo's in frame input."""
    frame: Frame = "face"
    """Where angles count from: face (0 is the frontal face) or input (0 is the camera of the photo)."""
    cameras: Path | None = None
    """JSON file of cameras to use instead of a path; a cameras.json of an earlier result will do."""
    source_camera: str | None = None
    """Known camera instead of the predicted one: "yaw,pitch" of the face, or a JSON file with the whole photo's."""
    turntable: bool = True
    """Whether to make turntable.mp4, a swing from yaw -45 to 45 and back."""
    turntable_frames: int = 16
    """Number of views sampled for the video, 2 to 1000; each is shown on the way there and back."""


@dataclass(frozen=True)
class ViewPlan:
    """Checked camera options."""

    views: CameraPoses | Cameras
    turntable: CameraPoses | None
    source: Cameras | tuple[float, float] | None
    """Camera (1) of the whole photo, or yaw and pitch of the crop's, or None: predict it."""
    frame: Frame

    def angles(self) -> list[tuple[float, float]]:
        """(N) yaw and pitch of the views in `frame`; of cameras from a file, in the frame `face`."""
        of_views = self.views.angles() if isinstance(self.views, Cameras) else self.views
        return list(zip(of_views.yaw_deg.tolist(), of_views.pitch_deg.tolist(), strict=True))

    def resolve(self, source: Cameras) -> tuple[Cameras, Cameras | None]:
        """Cameras of the views and of the turntable, given the camera (1) of the aligned crop."""
        views = self.views if isinstance(self.views, Cameras) else self.views.resolve(source)
        return views, None if self.turntable is None else self.turntable.resolve(source)

    def source_of_crop(self, box: CropBox, width: int, height: int) -> Cameras | None:
        """The known camera (1) of the crop `box` of a photo of `width` × `height`; None if it isn't known."""
        if isinstance(self.source, Cameras):
            return crop_cameras(self.source, box, width, height)
        return None if self.source is None else Cameras.from_angles(*self.source)

    def request(self) -> dict[str, object]:
        """JSON-able description, equal for equal plans."""
        source = self.source.to_eg3d().tolist() if isinstance(self.source, Cameras) else self.source
        return {
            "views": _describe(self.views),
            "turntable": None if self.turntable is None else _describe(self.turntable),
            "source": source,
            "frame": self.frame,
        }


def plan_views(options: CameraOptions) -> ViewPlan:
    """Check the options and build the poses. Raises ConfigError or CameraError."""
    turntable = None
    if options.turntable:
        if not 2 <= options.turntable_frames <= MAX_VIEWS:
            raise ConfigError(
                f"--turntable-frames {options.turntable_frames} is outside 2 to {MAX_VIEWS}; "
                "use --no-turntable for no video"
            )
        turntable = _posed(options, *_swing(options.turntable_frames))
    views = _poses(options) if options.cameras is None else _cameras_from_file(options.cameras, options)
    return ViewPlan(views, turntable, _parse_source(options.source_camera), options.frame)


def parse_numbers(text: str, option: str, example: str = "-30,0,30") -> list[float]:
    """Finite numbers separated by commas or blanks. Raises ConfigError naming the option."""
    try:
        values = [float(part) for part in text.replace("\N{MINUS SIGN}", "-").replace(",", " ").split()]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) for value in values):
        raise ConfigError(f'{option} {text!r:.60} is not a list of numbers; write for example {option} "{example}"')
    return values


def _poses(options: CameraOptions) -> CameraPoses:
    count = DEFAULT_VIEWS if options.views is None else options.views
    if not 1 <= count <= MAX_VIEWS:
        raise ConfigError(f"--views {count} is outside 1 to {MAX_VIEWS}")
    if options.yaw is None and options.pitch is None:
        return _posed(options, *_path_angles(options.path or "spread", count))
    keys = _posed(options, *_listed_angles(options))
    if options.path == "keyframes":
        return camera_paths.keyframes(keys, count)
    for option, value in (("--path", options.path), ("--views", options.views)):
        if value is not None:
            raise ConfigError(f"{option} {value} and --yaw or --pitch exclude each other (except --path keyframes)")
    return keys


def _posed(options: CameraOptions, yaw_deg: Numbers, pitch_deg: Numbers) -> CameraPoses:
    return CameraPoses(yaw_deg, pitch_deg, options.roll, options.radius, options.fov, options.frame)


def _listed_angles(options: CameraOptions) -> tuple[list[float], list[float]]:
    yaw = [0.0] if options.yaw is None else parse_numbers(options.yaw, "--yaw")
    pitch = [0.0] if options.pitch is None else parse_numbers(options.pitch, "--pitch")
    count = max(len(yaw), len(pitch))
    if count > MAX_VIEWS:
        raise ConfigError(f"--yaw or --pitch lists {count} views; expected at most {MAX_VIEWS}")
    if not {len(yaw), len(pitch)} <= {1, count}:
        raise ConfigError(f"--yaw has {len(yaw)} values and --pitch {len(pitch)}; give equally many, or one of either")
    return yaw * (count // len(yaw)), pitch * (count // len(pitch))


def _path_angles(path: PathName, count: int) -> tuple[Tensor, Tensor]:
    """Yaw and pitch (count,) of a named path."""
    if path == "keyframes":
        raise ConfigError('--path keyframes needs key poses: give --yaw "-45,0,45" or --pitch or both')
    if path == "spread":
        poses = _spread(count)
    elif path == "grid":
        poses = _grid(count)
    else:
        poses = _PATHS[path](count)
    return poses.yaw_deg, poses.pitch_deg


def _spread(count: int) -> CameraPoses:
    """A yaw sweep and, last, a look from above."""
    if count < 2:
        return camera_paths.yaw_sweep(count, 0.0, 0.0)
    sweep = camera_paths.yaw_sweep(count - 1, -YAW_RANGE_DEG, YAW_RANGE_DEG)
    yaw = sweep.yaw_deg.tolist() if count > 2 else [0.0]
    return CameraPoses([*yaw, 0.0], [0.0] * len(yaw) + [15.0])


def _grid(count: int) -> CameraPoses:
    """`count` poses in the most nearly square grid that is wider than tall."""
    rows = next(r for r in range(math.isqrt(count), 0, -1) if count % r == 0)
    columns = count // rows
    yaw = camera_paths.yaw_sweep(columns).yaw_deg.tolist() if columns > 1 else [0.0]
    pitch = camera_paths.pitch_sweep(rows).pitch_deg.tolist() if rows > 1 else [0.0]
    return camera_paths.grid(yaw, pitch)


def _swing(frames: int) -> tuple[list[float], list[float]]:
    """Yaw from one side to the other, slower at the turning points."""
    phases = [math.pi * (i / (frames - 1) - 0.5) for i in range(frames)]
    return [YAW_RANGE_DEG * math.sin(phase) for phase in phases], [0.0] * frames


def _cameras_from_file(path: Path, options: CameraOptions) -> Cameras:
    for field in fields(CameraOptions):
        if field.name in _SAID_BY_FILE and getattr(options, field.name) != field.default:
            raise ConfigError(
                f"--cameras and --{field.name} exclude each other: the file says it all; drop one of them"
            )
    cameras = Cameras.from_json(path)
    if len(cameras) > MAX_VIEWS:
        raise ConfigError(f"--cameras {path}: {len(cameras)} cameras; expected at most {MAX_VIEWS}")
    return cameras


def _parse_source(text: str | None) -> Cameras | tuple[float, float] | None:
    if text is None:
        return None
    if not text.lower().endswith(".json"):
        values = parse_numbers(text, "--source-camera", "15,0")
        if len(values) != 2:
            raise ConfigError(f'--source-camera {text!r:.60} has {len(values)} numbers; give "yaw,pitch" or a .json')
        return values[0], values[1]
    cameras = Cameras.from_json(Path(text))
    if len(cameras) != 1:
        raise ConfigError(f"--source-camera {text}: {len(cameras)} cameras; expected exactly 1")
    return cameras


def _describe(views: CameraPoses | Cameras) -> object:
    if isinstance(views, Cameras):
        return views.to_eg3d().tolist()
    columns = (views.yaw_deg, views.pitch_deg, views.roll_deg, views.radius, views.fov_deg)
    return [None if column is None else column.tolist() for column in columns]
