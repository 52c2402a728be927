"""From one photo to the result folders of its faces."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import Progress
from torch import Tensor

from ..align import CropBox, crop_image, refine_box
from ..errors import ConfigError
from ..images import LoadedImage, load_image, to_pil
from ..model import NVBModel
from ..outputs import ENTRIES, MARKER, FaceResult, is_finished, may_replace, other_source, remove_face, write_face
from ..pipeline import ViewFeatures, build_grid, encode_faces, predict_cameras, predict_source, sample_views
from ..provenance import Provenance, source_name
from ..sampling import SamplingOptions, decode_latents
from ..sheet import SheetCell, contact_sheet, outlined
from ..staging import staged_folder, writing
from ..watermark import add_watermark
from .faces import FacePlan
from .jobs import Job
from .views import ViewPlan


@dataclass(frozen=True)
class RenderPlan:
    """Checked options: everything that the pictures depend on, apart from the photo."""

    views: ViewPlan
    faces: FacePlan
    sampling: SamplingOptions
    turntable_steps: int
    watermark: bool
    dtype: str
    model: str
    """Name of the model."""
    weights_sha256: str
    version: str

    def request(self, photo: LoadedImage, box: CropBox) -> dict[str, Any]:
        """JSON-able description of one face's result: equal requests give equal results."""
        sampling = asdict(self.sampling)
        del sampling["views_per_chunk"]  # changes the memory needed, not the views
        return {
            "version": self.version,
            "source_sha256": photo.sha256,
            "weights_sha256": self.weights_sha256,
            "box": asdict(box),
            "refine": self.faces.refine,
            "cameras": self.views.request(),
            "sampling": sampling,
            "turntable_steps": self.turntable_steps if self.views.turntable else None,
            "watermark": self.watermark,
            "dtype": self.dtype,
        }

    def provenance(self, photo: LoadedImage) -> Provenance:
        """The record for this photo's results."""
        return Provenance(
            model=self.model,
            weights_sha256=self.weights_sha256,
            version=self.version,
            seed=self.sampling.seed,
            steps=self.sampling.steps,
            eta=self.sampling.eta,
            fit_steps=self.sampling.fit_steps,
            source=source_name(photo.path),
            source_sha256=photo.sha256,
        )


@dataclass(frozen=True)
class Renderer:
    """Renders photos as planned; `model` is called when first needed."""

    plan: RenderPlan
    model: Callable[[], NVBModel]
    progress: Progress
    overwrite: bool

    def render_photo(self, job: Job) -> None:
        """Render the chosen faces of a photo. Raises NVBError; then nothing half-written is left."""
        photo = load_image(job.photo)
        boxes, each = self.plan.faces.boxes(photo.pixels), self.plan.faces.face == "all"
        for index, box in enumerate(boxes):
            self._render_face(photo, box, face_folder(job, index) if each else job.folder)
        if each and self.overwrite:
            remove_faces(job, len(boxes))

    def _render_face(self, photo: LoadedImage, box: CropBox, folder: Path) -> None:
        request = self.plan.request(photo, box)
        if not self.overwrite and is_finished(folder, request):
            print(f"{folder}: finished before, skipped (--overwrite renders it again)", file=sys.stderr)
            return
        if not self.overwrite and (other := other_source(folder, photo.sha256)) is not None:
            raise ConfigError(
                f"{photo.path}: {folder} holds the result of another photo, {other}; choose another --out, or give "
                "--overwrite to replace it"
            )
        started = time.monotonic()
        with staged_folder(folder, MARKER, ENTRIES, may_replace) as stage:
            result = self._sample(photo, box, request)
            with writing(folder):
                write_face(result, stage)
        seconds = time.monotonic() - started
        print(f"{folder}: {len(result.views)} views of {photo.path.name} in {seconds:.1f} s", file=sys.stderr)

    def _sample(self, photo: LoadedImage, box: CropBox, request: dict[str, Any]) -> FaceResult:
        plan, model = self.plan, self.model()
        size = model.config.image_size
        if plan.faces.refine:
            box = refine_box(photo.pixels, box, lambda crop: predict_cameras(model, crop), size)
        crop = crop_image(photo.pixels, box, size)  # (3, S, S)
        features = encode_faces(model, crop[None])
        height, width = photo.pixels.shape[-2:]
        source = plan.views.source_of_crop(box, width, height) or predict_source(model, features)
        views, turntable = plan.views.resolve(source)
        grid = build_grid(model, features, source, plan.sampling.fit_steps)
        images = self._images(ViewFeatures(model, grid, [views]), plan.sampling, f"{photo.path.name}: views")
        # Fewer steps visit a part of the same timesteps: the grid is not computed again.
        hasty, frames = replace(plan.sampling, steps=min(plan.turntable_steps, plan.sampling.steps)), None
        if turntable is not None:
            frames = self._images(ViewFeatures(model, grid, [turntable]), hasty, f"{photo.path.name}: turntable")
        provenance = plan.provenance(photo)
        return FaceResult(
            views=images,
            cameras=views,
            angles=plan.views.angles(),
            frame=plan.views.frame,
            source_camera=source,
            crop=box,
            sheet=make_sheet(photo, box, crop, images, plan.views.angles(), provenance),
            provenance=provenance,
            request=request,
            turntable=frames,
            turntable_cameras=turntable,
            turntable_steps=hasty.steps,
        )

    def _images(self, views: ViewFeatures, sampling: SamplingOptions, title: str) -> Tensor:
        """Finished pictures (N, 3, S, S) in [-1, 1] of one face's views."""
        task = self.progress.add_task(title, total=sampling.steps)
        try:
            latents = sample_views(
                views.model, views, sampling, on_step=lambda info: self.progress.update(task, completed=info.step)
            )
        finally:
            self.progress.remove_task(task)
        images = decode_latents(views.model, latents, sampling.views_per_chunk, device="cpu")
        return add_watermark(images) if self.plan.watermark else images


def face_folder(job: Job, index: int) -> Path:
    """Where one of all faces of a photo goes."""
    return job.folder / f"face{index}"


def remove_faces(job: Job, first: int) -> None:
    """Remove results of faces from the `first` on: what they lay beside is replaced, and had more."""
    with writing(job.folder):
        while (folder := face_folder(job, first)).is_dir():
            remove_face(folder)
            first += 1


def make_sheet(
    photo: LoadedImage,
    box: CropBox,
    crop: Tensor,
    views: Tensor,
    angles: list[tuple[float, float]],
    provenance: Provenance,
) -> Image.Image:
    """Contact sheet of one face: the photo with the box drawn, the crop (3, S, S), the views (N, 3, S, S)."""
    height, width = photo.pixels.shape[-2:]
    inputs = [
        SheetCell(outlined(to_pil(photo.pixels), box_corners(box)), f"photo, {width} x {height}"),
        SheetCell(to_pil(crop), "aligned crop"),
    ]
    cells = [
        SheetCell(to_pil(view), f"yaw {_degrees(yaw)}   pitch {_degrees(pitch)}")
        for view, (yaw, pitch) in zip(views, angles, strict=True)
    ]
    footer = (
        f"AI-generated by {provenance.generator} {provenance.version}, model {provenance.model}, "
        f"seed {provenance.seed}, {provenance.steps} steps."
    )
    return contact_sheet(inputs, cells, provenance.source, footer)


def box_corners(box: CropBox) -> list[tuple[float, float]]:
    """Corners of a crop in photo pixels, clockwise from the crop's top left."""
    s, c = math.sin(math.radians(box.roll_deg)), math.cos(math.radians(box.roll_deg))
    half = box.size_px / 2
    return [
        (box.center_x + half * (c * u - s * v), box.center_y + half * (s * u + c * v))
        for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


def _degrees(angle: float) -> str:
    return f"{round(angle, 1) + 0.0:+.3g}°" if round(angle, 1) else "0°"
