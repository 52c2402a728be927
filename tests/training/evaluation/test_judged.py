from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nvb_core.cameras import Cameras
from training.evaluation import judged
from training.evaluation.benchmark import BenchmarkFace
from training.evaluation.judged import judge, with_margins
from training.evaluation.measure import GeneratedFaces
from training.evaluation.scores import IdentityScores
from training.judges.judges import Readings

from .conftest import VIEWS


class StandIn:
    """Reads a picture's mean colour as its person, and its first pixel's red and green as angles of up to 90°."""

    def read(self, images: Tensor) -> Readings:
        angles = torch.cat([90 * images[:, :2, 0, 0], torch.zeros(len(images), 1)], dim=1)
        return Readings(F.normalize(images.mean((2, 3))), angles)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged, "load_judges", StandIn)


def picture(red: float, green: float, blue: float, yaw_deg: float = 0.0, pitch_deg: float = 0.0) -> Tensor:
    image = torch.tensor([red, green, blue], dtype=torch.float32).view(3, 1, 1).expand(3, 32, 32).clone()
    image[:2, 0, 0] = torch.tensor([yaw_deg, pitch_deg]) / 90
    return image


def test_readings_of_views_and_inputs(make_face: Callable[[int], BenchmarkFace]) -> None:
    yaws, pitches = [-30.0, 0.0, 45.0], [10.0, 0.0, -5.0]
    face = make_face(3)
    cameras = replace(face.cameras, targets=Cameras.from_angles(yaws, pitches))
    truth = torch.stack([picture(1, 0, 0, yaw + 1, pitch) for yaw, pitch in zip(yaws, pitches, strict=True)])
    views = torch.stack([picture(0.6, 0.8, 0, yaw - 4, pitch + 2) for yaw, pitch in zip(yaws, pitches, strict=True)])
    face = replace(face, cameras=cameras, image=picture(1, 0, 0), targets=truth)
    generated = GeneratedFaces(
        degraded=picture(0, 1, 0)[None],
        restored=picture(0.8, 0.6, 0)[None],
        reconstructed=None,
        views=views[None],
        pairs=views[None, :2],
        predicted=None,
        seconds={},
    )
    found = judge(face, generated, 0)
    tolerance = {"abs": 3e-3}  # the pixel that tells the angles counts into the colour
    assert found.restored_identity == pytest.approx(0.8, **tolerance)
    assert found.degraded_identity == pytest.approx(0.0, **tolerance)
    identity, yaw, pitch, true_yaw, true_pitch = found.of_views
    assert identity == pytest.approx([0.6] * VIEWS, **tolerance)
    assert yaw == pytest.approx([4.0] * VIEWS, abs=1e-3)
    assert pitch == pytest.approx([2.0] * VIEWS, abs=1e-3)
    assert true_yaw == pytest.approx([1.0] * VIEWS, abs=1e-3)
    assert true_pitch == pytest.approx([0.0] * VIEWS, abs=1e-3)
    assert found.true_embedding == pytest.approx((1.0, 0.0, 0.0), abs=3e-3)
    assert found.generated_embedding == pytest.approx((0.6, 0.8, 0.0), abs=3e-3)


def test_the_mean_of_embeddings_is_a_direction() -> None:
    assert judged._mean(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])) == (0.70711, 0.70711, 0.0)


def scores(true: tuple[float, ...] | None, generated: tuple[float, ...] | None) -> IdentityScores:
    return IdentityScores(
        seed=0,
        degraded_psnr=0.0,
        restored_psnr=0.0,
        camera=None,
        pair_psnr=None,
        true_pair_psnr=None,
        niqe=None,
        true_niqe=None,
        views=(),
        seconds={},
        machine="",
        true_embedding=true,
        generated_embedding=generated,
    )


def test_margin_is_over_the_nearest_of_the_others() -> None:
    people = [scores((1.0, 0.0), (0.8, 0.6)), scores((0.0, 1.0), (0.0, 1.0)), scores((-1.0, 0.0), (0.6, 0.8))]
    margins = [item.identity_margin for item in with_margins(people)]
    assert margins == pytest.approx([0.8 - 0.6, 1.0 - 0.0, -0.6 - 0.8])
    true_margins = [item.true_identity_margin for item in with_margins(people)]
    assert true_margins == pytest.approx([1.0 - 0.0, 1.0 - 0.0, 1.0 - 0.0])
    opposite = [scores((1.0, 0.0), (1.0, 0.0)), scores((-1.0, 0.0), (-1.0, 0.0))]
    assert [item.identity_margin for item in with_margins(opposite)] == pytest.approx([2.0, 2.0])


def test_no_margin_without_others_or_readings() -> None:
    [alone] = with_margins([scores((1.0, 0.0), (1.0, 0.0))])
    assert alone.identity_margin is None
    whole = scores((1.0,), (1.0,))
    for partial in (scores(None, None), scores(None, (1.0,)), scores((1.0,), None)):
        assert [s.identity_margin for s in with_margins([partial, whole])] == [None, None]
