from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nvb_core.errors import ConfigError
from tests.training.conftest import SIDE_PX, SUBJECTS, VIEWS
from training.data import FaceFolder
from training.judges import train as module
from training.judges.judges import read_judges
from training.judges.network import JudgeConfig, JudgeNetwork
from training.judges.train import JudgeOptions, JudgeStage, require_labelled, train

pytestmark = pytest.mark.usefixtures("accelerate_reset")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIZE", 32)
    config = JudgeConfig(size=SIDE_PX, widths=(8, 16), blocks=(1, 1), embedding=8)
    monkeypatch.setattr(module, "JudgeConfig", lambda size: config)


def test_a_batch_tells_who_is_seen_from_where(faces: Path, tmp_path: Path) -> None:
    stage = JudgeStage(JudgeOptions(out=tmp_path, data=(faces,), batch_size=6, degraded_share=0.0, trait_weight=0), 0)
    assert stage.people.tolist() == [subject for subject in range(SUBJECTS) for _ in range(VIEWS)]
    [source] = stage.faces.sources
    assert torch.allclose(stage.angles_deg[:, 0], source.cameras.angles().yaw_deg.float())
    batch, again = stage.make_batch(3), stage.make_batch(3)
    assert torch.equal(batch.images, again.images)
    assert not torch.equal(batch.images, stage.make_batch(4).images)
    whole = source.images(torch.arange(len(stage.faces))).float() / 127.5 - 1
    for image, person, angles in zip(batch.images, batch.people, batch.angles_deg, strict=True):
        both = torch.cat([whole, whole.flip(-1)])
        match = int((both - image).abs().flatten(1).sum(1).argmin())
        mirrored, match = match >= len(whole), match % len(whole)
        assert torch.allclose(both[match + mirrored * len(whole)], image)
        assert person == stage.people[match]
        camera = source.cameras[match]
        seen = (camera.mirrored() if mirrored else camera).angles()
        true = torch.cat([seen.yaw_deg, seen.pitch_deg, seen.roll_deg]).float()
        assert torch.allclose(angles, true, atol=1e-3)


def test_learns_to_tell_three_people_apart(faces: Path, tmp_path: Path) -> None:
    options = JudgeOptions(
        out=tmp_path,
        data=(faces,),
        batch_size=15,
        steps=40,
        lr=1e-2,
        ema_decay=0.5,
        degraded_share=0.0,
        trait_weight=0,
        log_every=40,
    )
    assert train(options) == 40
    stage = JudgeStage(options, 0)
    judges = read_judges(tmp_path / "judges.safetensors")
    readings = judges.read(stage.make_validation_batch(0).images)
    people = stage.make_validation_batch(0).people
    cosines = readings.embeddings @ readings.embeddings.T
    same = people[:, None] == people[None]
    other = ~same
    assert float(cosines[other].mean()) < 0.5 < float(cosines[same].mean())
    assert isinstance(judges.network, JudgeNetwork)


@pytest.mark.parametrize(
    ("folders", "batch_size", "message"),
    [(2, 6, "2 folders; the judges learn from one"), (1, 16, "--batch-size is 16, the folder has 15 pictures")],
)
def test_one_folder_with_a_batch_of_pictures(
    faces: Path, tmp_path: Path, folders: int, batch_size: int, message: str
) -> None:
    options = JudgeOptions(out=tmp_path, data=(faces,) * folders, batch_size=batch_size, trait_weight=0)
    with pytest.raises(ConfigError, match=message):
        JudgeStage(options, 0)


def test_pictures_as_the_judges_see_them(faces: Path, tmp_path: Path) -> None:
    loaded = FaceFolder.load(faces, 32)
    require_labelled(loaded, [faces], SIDE_PX)
    with pytest.raises(ConfigError, match=r"faces\d*: pictures of 40 px, must have 96"):
        require_labelled(loaded, [faces], 96)
    [source] = loaded.sources
    some = torch.arange(len(source)) > 1
    with pytest.raises(ConfigError, match="2 pictures have no camera"):
        require_labelled(replace(loaded, sources=(replace(source, has_camera=some),)), [faces], SIDE_PX)


def test_traits_need_rendered_people(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --trait-weight 0"):
        JudgeStage(JudgeOptions(out=tmp_path, data=(faces,), batch_size=15), 0)


def test_options_that_judges_are_trained_without_are_refused(tmp_path: Path) -> None:
    def make(**changes: Any) -> JudgeOptions:
        return JudgeOptions(out=tmp_path, data=(tmp_path,), **changes)

    for changes in ({"tone_probability": 0.5}, {"half_base": True}, {"compile": "eager"}, {"degrade_on": "device"}):
        with pytest.raises(ConfigError, match=f"{next(iter(changes))}: judges are trained without; leave it out"):
            make(**changes)
    with pytest.raises(ConfigError, match="shard gradients is for step 1"):
        make(shard="gradients")
