from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nvb_core.align import default_box
from nvb_core.detect import detect_faces
from nvb_core.errors import ConfigError
from nvb_core.images import load_image
from tests.training.data.convert.made_up import pixels_of, save_picture
from training.data import FaceFolder, read_index
from training.data.convert.faces import plan_faces
from training.data.convert.run import run

PHOTO = Path(__file__).parents[4] / "examples" / "astronaut.jpg"


def test_faces_are_found_and_cropped(tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "more").mkdir(parents=True)
    with Image.open(PHOTO) as photo:
        photo.save(source / "more" / "Eileen Collins.png")
    save_picture(source / "noise.png", 0, 90, 60)
    report = run(plan_faces(source, True, 1.25, "image"), tmp_path / "out", 64, 1, show_progress=False)
    assert (report.images, report.with_camera, report.side_px) == (1, 0, 80)
    assert [(e.file, e.reason) for e in report.dropped] == [("noise.png", "no face found")]
    index = read_index(tmp_path / "out")
    assert index.has_camera.tolist() == [False]
    shown = pixels_of(tmp_path / "out" / index.paths[0]).astype(float)
    box = default_box(detect_faces(load_image(PHOTO).pixels)[0])
    half = box.size_px * 1.25 / 2
    with Image.open(source / "more" / "Eileen Collins.png") as photo:
        x, y = box.center_x, box.center_y
        expected = photo.convert("RGB").resize((80, 80), Image.Resampling.BOX, (x - half, y - half, x + half, y + half))
    assert box.roll_deg == 0
    assert np.corrcoef(shown.ravel(), np.asarray(expected, float).ravel())[0, 1] > 0.99
    folder = FaceFolder.load(tmp_path / "out", 64)
    assert (folder.sources[0].canonical_px, len(folder.views)) == (64, 0)


def test_aligned_pictures_are_taken_whole(tmp_path: Path) -> None:
    pixels = save_picture(tmp_path / "src" / "000001.png", 0)
    Image.fromarray(pixels).save(tmp_path / "src" / "000002.jpg", quality=95)
    Image.fromarray(pixels).convert("L").save(tmp_path / "src" / "000003.png")
    save_picture(tmp_path / "src" / "000004.png", 4, 40, 32)
    report = run(plan_faces(tmp_path / "src", False, 1.0, "image"), tmp_path / "out", None, 1, show_progress=False)
    assert [(e.file, e.reason) for e in report.dropped] == [("000004.png", "not square")]
    assert read_index(tmp_path / "out").subjects == ("000001", "000002", "000003")
    source = (tmp_path / "src" / "000001.png").read_bytes()
    assert (tmp_path / "out" / "000001" / "view.png").read_bytes() == source
    with Image.open(tmp_path / "out" / "000002" / "view.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
    assert pixels_of(tmp_path / "out" / "000003" / "view.png").shape == (32, 32, 3)


def test_folders_as_subjects(tmp_path: Path) -> None:
    for i, name in enumerate(("a/0.png", "a/1.png", "b/0.png", "loose.png")):
        save_picture(tmp_path / "src" / name, i)
    save_picture(tmp_path / "src" / ".hidden" / "0.png", 9)
    report = run(plan_faces(tmp_path / "src", False, 1.0, "folder"), tmp_path / "out", None, 1, show_progress=False)
    assert [(e.file, e.reason) for e in report.dropped] == [("loose.png", "not in a subject's folder")]
    assert read_index(tmp_path / "out").paths == ("a/0.png", "a/1.png", "b/0.png")
    assert read_index(tmp_path / "out").subjects == ("a", "a", "b")


def test_bad_margin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--margin is 0\.5"):
        plan_faces(tmp_path, False, 0.5, "image")
