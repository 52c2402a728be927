"""What a folder that the official kit (`nersemble-data download SRC`) has filled holds:

    SRC/{participant:03d}/calibration/camera_params.json      {"world_2_cam": {serial: 4×4}, "intrinsics": 3×3}
    SRC/{participant:03d}/calibration/color_calibration.json  {serial: 3×terms}
    SRC/{participant:03d}/sequences/{sequence}/images/cam_{serial}.mp4

world_2_cam has OpenCV axes; the one intrinsic matrix, in pixels, is that of all cameras, for pictures of 2200 × 3208.
Frame i of each camera's video is timestep i of the sequence. What doesn't hold together is left out, with its reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nvb_core.cameras import RADIUS, Cameras
from nvb_core.errors import CameraError, ConfigError

from ..convert.plan import Dropped, require_folder
from ..index import read_json
from .colour import colour_fault

FULL_SIZE_PX = (2200, 3208)
"""Width and height that the intrinsics are for; or the other way round, as their principal point says."""
CAMERAS_FILE, COLOURS_FILE = "calibration/camera_params.json", "calibration/color_calibration.json"
ORTHONORMAL = 1e-5
FOCAL_RANGE = (0.5, 10.0)  # of the longer side (chosen)
OFF_CENTRE = 0.05  # of the longer side: how far the principal point may be from the picture's centre (chosen)
MIN_SPREAD = 1e-3  # of the optical axes, see `_meeting_point` (chosen)

_VIDEO = re.compile(r"cam_(?P<serial>[A-Za-z0-9]+)\.mp4")
_PARTICIPANT = re.compile(r"\d{3,}")


@dataclass(frozen=True, eq=False)
class Rig:
    """A participant's calibrated cameras."""

    intrinsics_px: Tensor  # (3, 3) float64, for full_size_px
    full_size_px: tuple[int, int]  # width and height
    world_2_cam: dict[str, Tensor]  # (4, 4) float64 by serial
    faults: dict[str, str]  # why a serial's pose can't be used

    @cached_property
    def centring(self) -> Tensor:
        """Similarity (4, 4): the point nearest to all optical axes to the origin, the mean distance from it to RADIUS.

        It makes the rig's units and origin, whatever they are, fit for `Cameras`. Raises CameraError.
        """
        poses = torch.linalg.inv(torch.stack(list(self.world_2_cam.values())))
        eyes = poses[:, :3, 3]
        centre = _meeting_point(eyes, poses[:, :3, 2])
        scale = RADIUS / (eyes - centre).norm(dim=1).mean()
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3] = torch.cat((scale * torch.eye(3, dtype=torch.float64), -scale * centre[:, None]), dim=1)
        return matrix

    @cached_property
    def cameras(self) -> dict[str, Cameras]:
        """Cameras (1) of whole pictures by serial, in the rig's world after `centring`. Raises CameraError."""
        size = torch.tensor([*self.full_size_px, 1.0], dtype=torch.float64)
        intrinsics = (self.intrinsics_px / size[:, None])[None]
        move, scale = self.centring, self.centring[0, 0]
        cameras = {}
        for serial, world_2_cam in self.world_2_cam.items():
            cam2world = move @ torch.linalg.inv(world_2_cam)
            cam2world[:3, :3] /= scale
            try:
                cameras[serial] = Cameras(cam2world[None], intrinsics)
            except CameraError as error:
                raise CameraError(f"camera {serial}: {str(error).removeprefix('camera 0: ')}") from None
        return cameras


@dataclass(frozen=True, eq=False)
class Recording:
    """One sequence of one participant: each camera's video, calibrated."""

    participant: str
    sequence: str
    rig: Rig
    videos: dict[str, str]  # by serial, relative to the source
    colours: dict[str, Tensor]  # (3, terms) by serial; empty without colour correction

    @property
    def name(self) -> str:
        return f"{self.participant}/{self.sequence}"


@dataclass(frozen=True)
class Capture:
    """All that is to be converted, and what was left out."""

    root: Path
    recordings: tuple[Recording, ...]
    dropped: tuple[Dropped, ...]


def read_capture(
    root: Path, participants: Sequence[str] = (), sequences: Sequence[str] = (), color_correction: bool = True
) -> Capture:
    """What is below SRC; of it the participants and sequences named, if any are. Raises ConfigError if that's nothing.

    A participant without usable calibration and a camera that it lacks are left out, never guessed.
    """
    require_folder(root)
    known = sorted(p.name for p in root.iterdir() if p.is_dir() and _PARTICIPANT.fullmatch(p.name))
    wanted = [participant_name(p) for p in participants] or known
    missing = [name for name in wanted if name not in known]
    if not wanted or missing:
        what = f"participant {missing[0]}" if missing else "participants (folders such as 017)"
        raise ConfigError(f"{root}: has no {what}; {download_advice(root, missing, sequences)}")
    recordings: list[Recording] = []
    dropped: list[Dropped] = []
    for name in sorted(set(wanted)):
        for entry in _participant(root, name, sequences, color_correction):
            (recordings if isinstance(entry, Recording) else dropped).append(entry)  # type: ignore[arg-type]
    if not recordings:
        why = f"{dropped[0].file}: {dropped[0].reason}, {dropped[0].detail}" if dropped else "no sequence is there"
        raise ConfigError(f"{root}: nothing to convert ({why}); {download_advice(root, wanted, sequences)}")
    return Capture(root, tuple(recordings), tuple(dropped))


def participant_name(text: str) -> str:
    """The folder's name for 17, "17" or "017". Raises ConfigError."""
    if not str(text).isdecimal():
        raise ConfigError(f"participant {text!r} must be a number, for example 017")
    return f"{int(text):03d}"


def kit_arguments(root: Path, participants: Sequence[str] = (), sequences: Sequence[str] = ()) -> list[str]:
    """Of the kit's `nersemble-data`: how to download these participants and sequences, all if none are named."""
    arguments = ["download", str(root)]
    if participants:
        arguments += ["--participant", ",".join(str(int(participant_name(name))) for name in participants)]
    if sequences:
        arguments += ["--sequence", ",".join(sequences)]
    return arguments


def download_advice(root: Path, participants: Sequence[str] = (), sequences: Sequence[str] = ()) -> str:
    """What to do if files are missing; nothing is downloaded by itself, since access is granted on request only."""
    command = " ".join(["nersemble-data", *kit_arguments(root, participants, sequences)])
    return f'with access granted, pip install "nvb-face[nersemble]" and run: {command}'


def read_rig(path: Path) -> Rig:
    """A camera_params.json. Raises ConfigError; a camera whose pose is bad is among the rig's faults."""
    content = read_json(path, "it holds the cameras")
    if not isinstance(content, dict) or not isinstance(content.get("world_2_cam"), dict):
        raise ConfigError(f'{path}: must hold {{"world_2_cam": {{serial: 4x4}}, "intrinsics": 3x3}}')
    intrinsics = _matrix(content.get("intrinsics"), (3, 3))
    if intrinsics is None:
        raise ConfigError(f"{path}: intrinsics must be 3x3 finite numbers")
    full_size = _full_size(intrinsics, path)
    poses = {serial: _matrix(value, (4, 4)) for serial, value in content["world_2_cam"].items()}
    faults = {serial: fault for serial, pose in poses.items() if (fault := _pose_fault(pose))}
    good = {serial: pose for serial, pose in poses.items() if pose is not None and serial not in faults}
    rig = Rig(intrinsics, full_size, good, faults)
    if not good:
        raise ConfigError(
            f"{path}: has no usable pose in world_2_cam{''.join(f'; {s}: {f}' for s, f in faults.items())}"
        )
    try:
        _ = rig.cameras  # all of them checked
    except CameraError as error:
        raise ConfigError(f"{path}: {error}") from None
    return rig


def _participant(
    root: Path, name: str, sequences: Sequence[str], color_correction: bool
) -> Iterator[Recording | Dropped]:
    try:
        rig = read_rig(root / name / CAMERAS_FILE)
    except ConfigError as error:
        yield Dropped(name, "unusable camera calibration", str(error))
        return
    colours: dict[str, Any] = {}
    if color_correction:
        try:
            colours = _read_colours(root / name / COLOURS_FILE)
        except ConfigError as error:
            yield Dropped(name, "unusable colour calibration", f"{error}; or give --no-color-correction")
            return
    for folder in _folders(root / name / "sequences"):
        if folder.name == "BACKGROUND" or (sequences and folder.name not in sequences):
            continue
        videos: dict[str, str] = {}
        for entry in _videos(root, folder / "images", rig, colours if color_correction else None):
            if isinstance(entry, Dropped):
                yield entry
            else:
                videos[entry[0]] = entry[1]
        if videos:
            matrices = {serial: torch.tensor(colours[serial], dtype=torch.float64) for serial in videos if colours}
            yield Recording(name, folder.name, rig, videos, matrices)
        else:
            yield Dropped(folder.relative_to(root).as_posix(), "sequence without usable videos")
    for sequence in sequences:
        if not (root / name / "sequences" / sequence).is_dir():
            yield Dropped(f"{name}/sequences/{sequence}", "missing sequence")


def _videos(root: Path, folder: Path, rig: Rig, colours: dict[str, Any] | None) -> Iterator[tuple[str, str] | Dropped]:
    """Serial and path of each video, and what is left out or missing; colours None: without correction."""
    missing = set(rig.world_2_cam) | set(rig.faults)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        shown = path.relative_to(root).as_posix()
        match = _VIDEO.fullmatch(path.name)
        if path.name.startswith("."):
            continue
        if match is None or not path.is_file():
            yield Dropped(shown, "not a camera's video")
            continue
        serial = match["serial"]
        missing.discard(serial)
        if serial in rig.faults:
            yield Dropped(shown, "bad camera", rig.faults[serial])
        elif serial not in rig.world_2_cam:
            yield Dropped(shown, "camera without calibration", f"{CAMERAS_FILE} has no serial {serial}")
        elif colours is not None and (fault := colour_fault(colours.get(serial))):
            yield Dropped(shown, "camera without colour calibration", f"serial {serial}: {fault}")
        else:
            yield serial, shown
    for serial in sorted(missing) if folder.is_dir() else []:
        yield Dropped((folder / f"cam_{serial}").relative_to(root).as_posix(), "camera without video")


def _folders(parent: Path) -> list[Path]:
    found = parent.iterdir() if parent.is_dir() else iter(())
    return sorted(path for path in found if path.is_dir() and not path.name.startswith("."))


def _read_colours(path: Path) -> dict[str, Any]:
    content = read_json(path, "it holds the cameras' colour calibration")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold {{serial: 3 rows of numbers}}")
    return content


def _matrix(value: Any, shape: tuple[int, int]) -> Tensor | None:
    """Finite numbers of a shape as float64, or None."""
    try:
        matrix = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None
    return matrix if matrix.shape == shape and bool(matrix.isfinite().all()) else None


def _pose_fault(pose: Tensor | None) -> str | None:
    """What keeps a world_2_cam from being a rigid motion, or None."""
    if pose is None:
        return "world_2_cam must be 4x4 finite numbers"
    rotation = pose[:3, :3]
    off = float((rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().max())
    if off > ORTHONORMAL:
        return f"rotation must be orthonormal to {ORTHONORMAL:g}, is off by {off:.2g}"
    if torch.linalg.det(rotation) < 0:
        return "rotation must be right-handed (determinant +1)"
    if not torch.allclose(pose[3], torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64), atol=1e-6):
        return "last row must be [0, 0, 0, 1]"
    return None


def _full_size(intrinsics: Tensor, path: Path) -> tuple[int, int]:
    """The size that pixel intrinsics (3, 3) are for, upright or not as the principal point says. Raises ConfigError."""
    (fx, skew, cx), (zero, fy, cy), last = intrinsics.tolist()
    longer = max(FULL_SIZE_PX)
    if max(abs(skew), abs(zero)) > 1e-6 or last != [0.0, 0.0, 1.0]:
        raise ConfigError(f"{path}: intrinsics must be of the form [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
    if not all(FOCAL_RANGE[0] * longer <= focal <= FOCAL_RANGE[1] * longer for focal in (fx, fy)):
        raise ConfigError(f"{path}: focal lengths {fx:g} and {fy:g} px aren't of a {longer} px picture of a head")
    for width, height in (FULL_SIZE_PX, FULL_SIZE_PX[::-1]):
        if math.hypot(cx - width / 2, cy - height / 2) <= OFF_CENTRE * longer:
            return width, height
    wide, high = FULL_SIZE_PX
    raise ConfigError(f"{path}: principal point ({cx:g}, {cy:g}) isn't near the centre of a {wide}x{high} px picture")


def _meeting_point(eyes: Tensor, axes: Tensor) -> Tensor:
    """The point (3) of least squared distance to lines from eyes (N, 3) along unit axes (N, 3). Raises CameraError."""
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None]  # (N, 3, 3)
    if len(eyes) < 2 or float(torch.linalg.eigvalsh(across.mean(dim=0))[0]) < MIN_SPREAD:
        raise CameraError("the cameras' axes don't meet; a rig looks at one head from several sides")
    return torch.linalg.solve(across.sum(dim=0), (across @ eyes[..., None]).sum(dim=0))[:, 0]
