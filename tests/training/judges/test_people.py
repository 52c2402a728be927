from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nvb_core.cameras import RADIUS
from nvb_core.errors import ConfigError, OccupiedError
from nvb_core.staging import locked
from training.data import FaceFolder, write_index
from training.heads.identity import sample_identity
from training.judges.people import (
    HELD_OUT_SEED,
    PITCH_DEG,
    ROLL_DEG,
    SCENES,
    SIZE,
    TRAINING_SEED,
    VIEWS,
    YAW_DEG,
    People,
    in_scene,
    render_people,
    sample_cameras,
    scene_of,
    scene_seed,
)


def test_a_person_keeps_the_face_and_changes_the_rest() -> None:
    person = sample_identity(TRAINING_SEED + 5)
    scenes = [in_scene(person, scene) for scene in range(SCENES)]
    for shown in scenes:
        assert (shown.phenotype, shown.changes) == (person.phenotype, person.changes)
        assert (shown.look.skin, shown.look.eyes) == (person.look.skin, person.look.eyes)
    assert len({shown.look.light for shown in scenes}) == len({shown.look.backdrop for shown in scenes}) == SCENES
    *own, last = scenes
    assert all(shown.look.hair == person.look.hair and shown.hair_style == person.hair_style for shown in own)
    assert last.look.hair != person.look.hair
    assert last.look.hair.dark == person.look.hair.dark  # brows have its colour


def test_no_two_scenes_share_a_seed() -> None:
    seeds = {scene_seed(TRAINING_SEED + person, scene) for person in range(50) for scene in range(SCENES)}
    assert len(seeds) == 50 * SCENES


def test_cameras_lie_in_their_ranges_and_are_repeatable() -> None:
    cameras = sample_cameras(TRAINING_SEED, 0)
    assert torch.equal(cameras.to_eg3d(), sample_cameras(TRAINING_SEED, 0).to_eg3d())
    assert not torch.equal(cameras.to_eg3d(), sample_cameras(TRAINING_SEED, 1).to_eg3d())
    angles = cameras.angles()
    assert len(cameras) == VIEWS
    for value, most in ((angles.yaw_deg, YAW_DEG), (angles.pitch_deg, PITCH_DEG), (angles.roll_deg, ROLL_DEG)):
        assert float(value.abs().max()) <= most + 1e-6
    assert torch.allclose(cameras.cam2world[:, :3, 3].norm(dim=1), torch.full((VIEWS,), RADIUS).double())


@pytest.mark.parametrize("first_seed", [0, 2_999_999])
def test_seeds_of_other_uses_are_refused(first_seed: int) -> None:
    with pytest.raises(ConfigError, match="from 3000000"):
        People(first_seed, 1)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(OccupiedError, match="another nvb-face is writing here"):
        list(render_people(tmp_path, People(TRAINING_SEED, 1), workers=1))


def test_scenes_of_pictures_made_elsewhere_are_not_known() -> None:
    assert scene_of("03000000/2-1.png") == 2
    for path in ("00000000/view_00.png", "00000000/3-0.png", "00.png"):
        with pytest.raises(ConfigError, match=rf"{path}: which scene it shows isn't known"):
            scene_of(path)


@pytest.mark.parametrize("views", [0, VIEWS + 1])
def test_views_beyond_the_cameras_of_a_scene_are_refused(views: int) -> None:
    with pytest.raises(ConfigError, match=f"{views} views of a scene: must be in 1–{VIEWS}"):
        People(TRAINING_SEED, 1, views)


@pytest.mark.parametrize("meta", [{}, {"margin": 1.25}, People(HELD_OUT_SEED, 1).meta])
def test_other_folders_are_left_alone(tmp_path: Path, meta: dict[str, Any]) -> None:
    write_index(tmp_path, ["a/0.png"], torch.zeros(1, 25, dtype=torch.float64), ["a"], meta)
    before = (tmp_path / "dataset.json").read_bytes()
    with pytest.raises(ConfigError, match=r"already holds images of other settings: .*; choose another --out"):
        list(render_people(tmp_path, People(TRAINING_SEED, 1), workers=1))
    assert (tmp_path / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(("first", "then", "rendered"), [(1, 2, 1), (2, 1, 0)])
def test_a_folder_of_fewer_views_is_rendered_again(tmp_path: Path, first: int, then: int, rendered: int) -> None:
    assert len(list(render_people(tmp_path, People(TRAINING_SEED, 1, first), workers=1))) == 1
    assert len(list(render_people(tmp_path, People(TRAINING_SEED, 1, then), workers=1))) == rendered
    [source] = FaceFolder.load(tmp_path, SIZE).sources
    expected = torch.cat([sample_cameras(TRAINING_SEED, scene)[:then].to_eg3d() for scene in range(SCENES)])
    assert torch.equal(source.cameras.to_eg3d(), expected)
    assert [path.name for path in source.files[:then]] == [f"0-{view}.png" for view in range(then)]


def test_rendered_people_are_a_face_folder(tmp_path: Path) -> None:
    people = People(TRAINING_SEED, 1)
    assert list(render_people(tmp_path, people, workers=1)) == [TRAINING_SEED]
    assert list(render_people(tmp_path, people, workers=1)) == []
    faces = FaceFolder.load(tmp_path, SIZE)
    assert len(faces) == SCENES * VIEWS
    [source] = faces.sources
    assert [scene_of(str(path)) for path in source.files[::VIEWS]] == list(range(SCENES))
    assert torch.allclose(source.cameras[:VIEWS].to_eg3d(), sample_cameras(TRAINING_SEED, 0).to_eg3d())
    pixels = source.images(torch.arange(len(faces))).float()
    assert float(pixels.std(dim=(1, 2, 3)).min()) > 10
