"""NeRSemble's recordings as a face folder: synchronised frames, colours corrected, the rig registered to EG3D's space
at each timestep, and a crop with an exact label of each camera.

OUT/{participant}/{sequence}-{timestep}-{serial}.png, OUT/dataset.json, OUT/report.json

Each timestep is a subject of its own, since only its pictures show one and the same face: training must not ask for one
expression from another. Splits go by participant.

OUT/conversion.jsonl  settings, then a line for each sequence that is done; a second run goes on behind it, and what
earlier ones have left stays part of the face folder, even if its videos are gone or weren't asked for again
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from nvb_core.align import CropBox, crop_image
from nvb_core.cameras import Cameras
from nvb_core.errors import CameraError, ConfigError, NVBError
from nvb_core.images import to_pil
from nvb_core.staging import locked, write_atomically, writing

from ..convert.plan import JOURNAL_NAME, MIN_INSIDE, Dropped, share_inside
from ..convert.run import REPORT_NAME, Report, open_journal, require_outside
from ..index import write_index
from .colour import correct_colours
from .crops import head_crop, moved_cameras
from .frames import VideoError, VideoInfo, choose_timesteps, common_timeline, extract_frames, probe_video
from .layout import CAMERAS_FILE, COLOURS_FILE, Capture, Recording, Rig
from .registration import Registration, RegistrationError
from .splits import NAMED, for_testing, require_known, splits_of

Register: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Cameras]], Registration]
"""From pictures (3, H, W) in [-1, 1] and their cameras (1) in the rig's space, by serial."""

FORMAT, KIND = "nvb-face data nersemble 1", "nersemble"
MAX_ERROR_PX = 0.5  # of the written crops
FRAMES_FOLDER = ".frames-partial"


class GeometryError(NVBError):
    """Labels that don't say what the rig's calibration says."""


@dataclass(frozen=True)
class Options:
    """How to convert."""

    size: int = 512  # of the canonical view; images are `margin` times as large
    margin: float = 1.25
    frames_per_sequence: int = 4
    color_correction: bool = True
    registration: str = ""  # what the cameras are registered by, in words: a second run must use the same

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise ConfigError(f"--size is {self.size}, must be in 16-4096")
        if not 1 <= self.margin <= 2:
            raise ConfigError(f"--margin is {self.margin}, must be in 1-2")
        if self.frames_per_sequence < 1:
            raise ConfigError(f"--frames-per-sequence is {self.frames_per_sequence}, must be at least 1")

    @property
    def side_px(self) -> int:
        return round(self.size * self.margin)


@dataclass(frozen=True)
class CaptureReport(Report):
    """What a conversion left, and how well the rigs' registrations agree."""

    registrations: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "registrations": list(self.registrations)}

    def lines(self) -> list[str]:
        lines = super().lines()
        if self.images and self.registrations:
            angle, shift = (median(r[key] for r in self.registrations) for key in ("angle_deg", "shift"))
            worst = max(r["reprojection_px"] for r in self.registrations)
            lines.insert(
                1,
                f"{len(self.registrations)} timesteps registered: median residual {angle:.2f} degrees, {shift:.3f} "
                f"EG3D units; labels reproject within {worst:.2g} px",
            )
        return lines


class Pictures(Mapping[str, Tensor]):
    """One timestep's frames by serial as (3, H, W) float32 in [-1, 1], each made when it is asked for."""

    def __init__(self, frames: Mapping[str, np.ndarray]) -> None:
        self._frames = frames  # (H, W, 3) uint8

    def __getitem__(self, serial: str) -> Tensor:
        return torch.from_numpy(np.array(self._frames[serial])).permute(2, 0, 1).float().div_(127.5).sub_(1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)


def predicted_registration(weights: Path, device: str = "cpu") -> Register:
    """Registration by what a checkpoint's encoder predicts of near-frontal views. Raises CheckpointError."""
    from nvb_core.checkpoint import load_model
    from nvb_core.pipeline import predict_cameras

    from .registration import observe, register

    model = load_model(weights, device)

    def registered(pictures: Mapping[str, Tensor], cameras: Mapping[str, Cameras]) -> Registration:
        size = model.config.image_size
        return register(observe(pictures, cameras, lambda crops: predict_cameras(model, crops), size))

    return registered


def check_geometry(
    rig: Rig, serial: str, size_px: tuple[int, int], similarity: Tensor, box: CropBox, label: list[float], side_px: int
) -> float:
    """How far, in pixels of the crop, known points about the head land from where the rig's calibration sees them.

    Known points: a 3×3×3 grid about EG3D's origin. They go through the written label (25); and, taken back into the
    rig's own world by the inverse of `similarity` (4, 4), through K · world_2_cam and the (upright) box, in pixels of
    pictures of `size_px`. Raises GeometryError at MAX_ERROR_PX.
    """
    axis = torch.tensor([-0.3, 0.0, 0.3], dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis, axis)  # (27, 3)
    world = (
        torch.linalg.inv(similarity) @ torch.cat((points, torch.ones(len(points), 1, dtype=torch.float64)), dim=1).mT
    )
    scale = torch.tensor([size_px[0] / rig.full_size_px[0], size_px[1] / rig.full_size_px[1], 1], dtype=torch.float64)
    seen = scale[:, None] * rig.intrinsics_px @ (rig.world_2_cam[serial] @ world)[:3]  # (3, 27)
    corner = torch.tensor([box.center_x, box.center_y], dtype=torch.float64) - box.size_px / 2
    expected = ((seen[:2] / seen[2:]).mT - corner) / box.size_px * side_px
    written = Cameras.from_eg3d([label]).project(points)[0] * side_px
    error = float((written - expected).norm(dim=1).max())
    if not (error < MAX_ERROR_PX and bool((seen[2] > 0).all()) and box.roll_deg == 0):
        raise GeometryError(
            f"camera {serial}: the label of its crop is {error:.3g} px off the rig's calibration (at most "
            f"{MAX_ERROR_PX} px is allowed); nothing of this timestep is usable, please report it with the calibration"
        )
    return error


def convert(
    capture: Capture,
    out: Path,
    register: Register,
    options: Options,
    test_participants: tuple[str, ...] = (),
    workers: int = 4,
    show_progress: bool = True,
) -> CaptureReport:
    """Write what isn't written yet and, at the end, report and index.

    Raises ConfigError if nothing is left or OUT holds something else, OutputError if it can't be written, OccupiedError
    if another process is at it, GeometryError if a label contradicts the calibration.
    """
    from rich.console import Console
    from rich.progress import track

    require_outside(out, capture.root)
    require_known(test_participants, capture, out)
    with locked(out), writing(out):
        out.mkdir(parents=True, exist_ok=True)
        done = open_journal(out, {"format": FORMAT, **asdict(options)})
        test = for_testing(test_participants, out)
        todo = [r for r in capture.recordings if not _is_done(done.get(r.name), _key(r, capture.root), out)]
        console = Console(stderr=True)
        with (out / JOURNAL_NAME).open("a", encoding="utf-8") as journal:
            for recording in track(todo, "converting sequences", console=console, disable=not show_progress):
                for name, _ in done.pop(recording.name, {}).get("images", []):
                    (out / name).unlink(missing_ok=True)
                record = _Conversion(capture.root, out, recording, register, options, workers).run()
                done[recording.name] = record
                journal.write(json.dumps(record) + "\n")
                journal.flush()
        return _finish(capture, out, done, options, test)


class _Conversion:
    """One recording on its way into the face folder."""

    def __init__(
        self, root: Path, out: Path, recording: Recording, register: Register, options: Options, workers: int
    ) -> None:
        self.root, self.out, self.recording, self.register = root, out, recording, register
        self.options, self.workers = options, workers
        self.images: list[tuple[str, list[float]]] = []
        self.dropped: list[Dropped] = []
        self.registrations: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """The recording's line of the journal, when all its images are written."""
        frames_folder = self.out / FRAMES_FOLDER
        shutil.rmtree(frames_folder, ignore_errors=True)  # left by a process that was killed
        frames_folder.mkdir()
        try:
            with ThreadPoolExecutor(self.workers) as pool:
                try:
                    self._convert(pool, frames_folder)
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        finally:
            shutil.rmtree(frames_folder, ignore_errors=True)
        return {
            "name": self.recording.name,
            "key": _key(self.recording, self.root),
            "images": self.images,
            "dropped": [astuple(entry) for entry in self.dropped],
            "registrations": self.registrations,
        }

    def _convert(self, pool: ThreadPoolExecutor, frames_folder: Path) -> None:
        frames, timesteps = self._frames(pool, frames_folder)
        for i, timestep in enumerate(timesteps):
            there = {serial: stack[i] for serial, stack in frames.items() if i < len(stack)}
            self._timestep(pool, timestep, there)

    def _drop(self, serial: str, reason: str, detail: str = "") -> None:
        self.dropped.append(Dropped(self.recording.videos[serial], reason, detail))

    def _frames(self, pool: ThreadPoolExecutor, folder: Path) -> tuple[dict[str, np.ndarray], list[int]]:
        """Colour-corrected frames (T, H, W, 3) uint8 by serial, of the first T of the timesteps, and the timesteps."""
        infos = self._each(pool, self.recording.videos, lambda serial: probe_video(self._path(serial)))
        timeline = common_timeline(infos, self.recording.rig.full_size_px)
        for serial, (reason, detail) in timeline.faults.items():
            self._drop(serial, reason, detail)
        timesteps = choose_timesteps(timeline.length, self.options.frames_per_sequence)
        there: dict[str, list[int]] = {}
        for serial, info in timeline.cameras.items():
            there[serial] = [timestep for timestep in timesteps if timestep < info.frames]
            if lacking := timesteps[len(there[serial]) :]:
                detail = f"{info.frames} of {timeline.length} frames: lacks {', '.join(map(str, lacking))}"
                self._drop(serial, "video ends early", detail)

        def extracted(serial: str) -> np.ndarray:
            return self._extract(serial, timeline.cameras[serial], there[serial], folder)

        return self._each(pool, {serial: steps for serial, steps in there.items() if steps}, extracted), timesteps

    def _each(self, pool: ThreadPoolExecutor, serials: Mapping[str, Any], work: Callable[[str], Any]) -> dict[str, Any]:
        """The work's results by serial, without the cameras whose video is unreadable."""
        futures = {serial: pool.submit(work, serial) for serial in sorted(serials)}
        results = {}
        for serial, future in futures.items():
            try:
                results[serial] = future.result()
            except VideoError as error:
                self._drop(serial, "unreadable video", str(error).removeprefix(f"{self._path(serial)}: "))
        return results

    def _path(self, serial: str) -> Path:
        return self.root / self.recording.videos[serial]

    def _extract(self, serial: str, info: VideoInfo, timesteps: list[int], folder: Path) -> np.ndarray:
        frames = extract_frames(self._path(serial), info, timesteps, folder / f"{serial}.rgb")
        if self.options.color_correction:
            for frame in frames:
                frame[:] = correct_colours(frame, self.recording.colours[serial])
        return frames

    def _timestep(self, pool: ThreadPoolExecutor, timestep: int, frames: Mapping[str, np.ndarray]) -> None:
        """Register the rig at a timestep, and write the crop of each of its frames (H, W, 3)."""
        rig, recording = self.recording.rig, self.recording
        moment = f"{recording.participant}/{recording.sequence}-{timestep:05d}"
        pictures = Pictures(frames)
        try:
            found = self.register(pictures, {serial: rig.cameras[serial] for serial in frames})
            moved = {serial: moved_cameras(rig.cameras[serial], found.similarity) for serial in frames}
        except (RegistrationError, CameraError) as error:
            self.dropped.append(Dropped(moment, "registration failed", str(error)))
            return
        similarity = found.similarity.double() @ rig.centring  # from the rig's own world

        def written(serial: str) -> tuple[str, list[float], float] | Dropped:
            name = f"{moment}-{serial}.png"
            return self._crop(name, serial, pictures[serial], moved[serial], similarity)

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the workers are the parallelism
        try:
            outcomes = list(pool.map(written, sorted(frames)))
        finally:
            torch.set_num_threads(threads)
        self.dropped += [outcome for outcome in outcomes if isinstance(outcome, Dropped)]
        kept = [outcome for outcome in outcomes if not isinstance(outcome, Dropped)]
        self.images += [(name, label) for name, label, _ in kept]
        self.registrations.append(
            {
                "timestep": moment,
                "used": list(found.used),
                "rejected": [list(entry) for entry in found.rejected],
                "angle_deg": found.angle_deg,
                "shift": found.shift,
                "reprojection_px": max((error for _, _, error in kept), default=0.0),
                "similarity": similarity.tolist(),
            }
        )

    def _crop(
        self, name: str, serial: str, picture: Tensor, camera: Cameras, similarity: Tensor
    ) -> tuple[str, list[float], float] | Dropped:
        """Write the crop of a picture (3, H, W); its name, label (25) and error of geometry, or why it isn't taken."""
        height, width = picture.shape[-2:]
        side = self.options.side_px
        try:
            crop = head_crop(camera, width, height, self.options.margin)
        except CameraError as error:
            return Dropped(name, "head not in the picture", str(error))
        inside = share_inside(crop.box, width, height)
        if inside < MIN_INSIDE:
            return Dropped(name, "head not in the picture", f"{100 * inside:.0f} % of its crop's side is")
        if crop.box.size_px < side - 0.5:
            return Dropped(name, "too small", f"{crop.box.size_px:.0f} px, {side} are asked for")
        label = crop.camera.to_eg3d()[0].tolist()
        error_px = check_geometry(self.recording.rig, serial, (width, height), similarity, crop.box, label, side)
        image = to_pil(crop_image(picture, crop.box, side))
        write_atomically(self.out / name, lambda partial: image.save(partial, format="PNG", compress_level=3))
        return name, label, error_px


def _key(recording: Recording, root: Path) -> list[Any]:
    """What the written images depend on: they are written anew if any of it that is still there changes."""
    calibration = [f"{recording.participant}/{name}" for name in (CAMERAS_FILE, COLOURS_FILE)]
    files = [*calibration[: 1 + bool(recording.colours)], *(recording.videos[s] for s in sorted(recording.videos))]
    stats = [(root / name).stat() for name in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(files, stats, strict=True)]


def _is_done(record: dict[str, Any] | None, key: list[Any], out: Path) -> bool:
    return record is not None and all(file in record["key"] for file in key) and _is_whole(record, out)


def _is_whole(record: dict[str, Any], out: Path) -> bool:
    return all((out / name).is_file() for name, _ in record["images"])


def _finish(
    capture: Capture, out: Path, done: dict[str, dict[str, Any]], options: Options, test: set[str]
) -> CaptureReport:
    """Write report and index of all that is done."""
    records = [record for record in done.values() if _is_whole(record, out)]
    images = sorted((name, label) for record in records for name, label in record["images"])
    subjects = [name.rpartition("-")[0] for name, _ in images]
    dropped = (*capture.dropped, *(Dropped(*entry) for record in records for entry in record["dropped"]))
    registrations = tuple(entry for record in records for entry in record["registrations"])
    side = options.side_px if images else 0
    report = CaptureReport(KIND, len(images), len(set(subjects)), len(images), side, dropped, registrations)
    text = json.dumps(report.to_json(), indent=1)
    write_atomically(out / REPORT_NAME, lambda partial: partial.write_text(text, encoding="utf-8"))
    if not images:
        raise ConfigError(f"{capture.root}: no image is left; {'; '.join(report.lines()[1:])}")
    participants = [name.partition("/")[0] for name, _ in images]
    splits = splits_of(participants, test)
    labels = torch.tensor([label for _, label in images], dtype=torch.float64)
    meta = {"converted_from": KIND, "margin": options.margin, **({NAMED: sorted(test)} if test else {})}
    write_index(out, [name for name, _ in images], labels, subjects, meta, splits)
    return report
