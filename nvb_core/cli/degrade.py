"""Make good photos bad: blur, low resolution, noise and JPEG as in training, to try how robust a model is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image, PngImagePlugin
from tyro.conf import Positional

from ..degradation import PRESETS, Degradation, degrade, sample_degradation
from ..errors import ConfigError, ImageError, NVBError, OccupiedError, OutputError
from ..images import LoadedImage, load_image, to_pil
from ..memory import is_out_of_memory
from ..provenance import DEGRADED_KEY, GRID_KEY, PNG_KEY, source_name
from ..sheet import CELL_PX, SheetCell, contact_sheet
from ..staging import write_atomically, writing
from . import FAILURE, PROG, report_error
from .jobs import plan_jobs, unique_stems
from .render import progress_bars
from .worker import DeviceName, join_launch

GRID_STEM = "grid"
GRID_NAME = f"{GRID_STEM}.png"
GRID_VARIANTS, GRID_PICTURES = 7, 64


@dataclass(frozen=True)
class Options:
    """Make good photos bad: blur, low resolution, noise and JPEG as in training.

    Writes one PNG a photo and variant into the folder --out; its metadata holds all parameters. The same photo, level
    and seed give the same picture. What an earlier run has finished is skipped.
    """

    photos: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="PHOTO ...")] = ()
    """Photos: files, folders, or patterns such as "photos/*.jpg"; of folders and patterns without what earlier runs
    made."""
    out: Path = Path("out/degraded")
    """Folder of the results."""
    level: Literal["level0", "level1", "level2", "train"] = "level2"
    """level1 is weak, level2 strong (Real-ESRGAN x4plus as published), level0 changes nothing; train is the mix that
    models are trained on."""
    seed: int = 0
    """Start of the random numbers, from 0 up."""
    variants: int = 1
    """How often each photo is degraded, each time differently, 1 to 1000."""
    grid: bool = False
    """Also write grid.png: the first photos (of several processes, the first one's), each beside its first variants."""
    overwrite: bool = False
    """Degrade again what is already finished, and replace other photos' results."""
    device: DeviceName = "cpu"
    """Where to compute; the pictures agree to rounding."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed is {self.seed}, must be in 0-{2**63 - 1}")
        if not 1 <= self.variants <= 1000:
            raise ConfigError(f"--variants is {self.variants}, must be in 1-1000")


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face degrade`; returns 0, or 2 if a photo failed. Raises NVBError for what concerns all photos."""
    options = tyro.cli(Options, args=list(argv), prog=f"{PROG} degrade")
    jobs = plan_jobs(options.photos, options.out, always_subfolders=False, results=(DEGRADED_KEY, PNG_KEY, GRID_KEY))
    photos = [job.photo for job in jobs]
    work = list(zip(photos, unique_stems(photos, reserved=(GRID_STEM,)), strict=True))
    if options.grid:
        refuse_foreign(options.out / GRID_NAME, GRID_KEY)
    worker = join_launch(options.device)
    failed: list[Path] = []
    rows: list[list[Image.Image]] = []
    share = work[worker.index :: worker.count]
    with progress_bars(visible=worker.index == 0) as progress:
        for photo, stem in progress.track(share, description="degrading"):
            in_grid = len(rows) < grid_rows(options)
            try:
                pictures = degrade_photo(photo, stem, options, worker.device, in_grid)
            except OutputError:
                raise
            except NVBError as error:
                report_error(error)
                failed.append(photo)
                continue
            if in_grid:
                rows.append(pictures)
    if rows and worker.index == 0:
        write_grid(rows, options)
    if not failed:
        print(f"{options.out}: {len(share)} photos degraded", file=sys.stderr)
    elif len(work) > 1:
        print(f"{PROG}: {len(failed)} of {len(share)} photos failed: {', '.join(map(str, failed))}", file=sys.stderr)
    worker.wait_for_all()
    return FAILURE if failed else 0


def grid_rows(options: Options) -> int:
    """How many photos the grid shows."""
    return GRID_PICTURES // (1 + min(options.variants, GRID_VARIANTS)) if options.grid else 0


def degrade_photo(path: Path, stem: str, options: Options, device: torch.device, in_grid: bool) -> list[Image.Image]:
    """Write the variants of a photo that aren't there yet; returns the photo and variants, small, if it's in the grid.

    Raises NVBError.
    """
    photo = load_image(path)
    pictures = [_small(to_pil(photo.pixels))] if in_grid else []
    for variant, degradation in enumerate(draw(photo, options)):
        name = f"{stem}.png" if options.variants == 1 else f"{stem}_{variant:03d}.png"
        record = {
            "source": source_name(path),
            "source_sha256": photo.sha256,
            "level": options.level,
            "seed": options.seed,
            "variant": variant,
            "degradation": degradation.to_dict(),
        }
        target = options.out / name
        if options.overwrite or not is_finished(target, record, path):
            save(_degraded(photo, degradation, device, path), target, record)
        if in_grid and variant < GRID_VARIANTS:
            with Image.open(target) as picture:
                pictures.append(_small(picture.convert("RGB")))
    return pictures


def _degraded(photo: LoadedImage, degradation: Degradation, device: torch.device, path: Path) -> Image.Image:
    """Raises ImageError where memory is too small for the photo."""
    try:
        return to_pil(degrade(photo.pixels[None].to(device), [degradation])[0])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    raise ImageError(f"{path}: not enough memory to degrade it; free some, or make the photo smaller")


def draw(photo: LoadedImage, options: Options) -> Iterator[Degradation]:
    """The degradations of a photo: they depend on its content, not on its place among others."""
    content = int(photo.sha256[:16], 16)
    for variant in range(options.variants):
        rng = np.random.default_rng([options.seed, content, variant])
        yield sample_degradation(rng, PRESETS[options.level])


def is_finished(target: Path, record: dict[str, Any], photo: Path) -> bool:
    """Whether `target` holds this very picture of `photo`. Raises ConfigError if it holds one of another photo."""
    found = read_record(target)
    if found is not None and found.get("source_sha256") != record["source_sha256"]:
        raise ConfigError(
            f"{photo}: {target} was made from another photo, {found.get('source')}; choose another --out, or "
            "give --overwrite to replace it"
        )
    return found == record


def save(picture: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a PNG with its record; a file there that isn't a degraded picture is left alone (OccupiedError)."""
    refuse_foreign(path, DEGRADED_KEY)
    write_png(picture, path, DEGRADED_KEY, record)


def refuse_foreign(path: Path, key: str) -> None:
    """Raise OccupiedError if there is a file that carries no such record."""
    with writing(path):
        exists = path.exists()
    if exists and read_record(path, key) is None:
        raise OccupiedError(f"{path}: exists and isn't a picture of nvb-face degrade; choose another --out")


def write_png(picture: Image.Image, path: Path, key: str, record: dict[str, Any]) -> None:
    """Write a PNG with its record in a text chunk."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, json.dumps(record, ensure_ascii=False))
    write_atomically(path, lambda partial: picture.save(partial, format="PNG", pnginfo=info))


def read_record(path: Path, key: str = DEGRADED_KEY) -> dict[str, Any] | None:
    """The record of a degraded picture, or of another of our pictures; None for any other file, or none."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.load()  # text chunks may follow the pixels, and a picture that was cut off doesn't count
            record = json.loads(picture.text.get(key, "null"))  # type: ignore[attr-defined]
    except (OSError, SyntaxError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_grid(rows: Sequence[Sequence[Image.Image]], options: Options) -> None:
    """One picture of photos and what became of them."""
    names = [f"variant {i}" for i in range(options.variants)] if options.variants > 1 else [options.level]
    captions = ["photo", *names][: len(rows[0])]
    cells = [SheetCell(*cell) for row in rows for cell in zip(row, captions, strict=True)]
    sheet = contact_sheet([], cells, f"{options.level}, seed {options.seed}", f"{PROG} degrade", columns=len(rows[0]))
    record = {"level": options.level, "seed": options.seed, "variants": options.variants}
    write_png(sheet, options.out / GRID_NAME, GRID_KEY, record)


def _small(picture: Image.Image) -> Image.Image:
    """Of the size that the grid shows, so that it doesn't keep many photos in memory."""
    picture.thumbnail((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    return picture
