from __future__ import annotations

from pathlib import Path

import pytest

from nvb_core.errors import ConfigError
from training.data.load import load_faces
from training.options import VAEOptions


def test_options_reach_the_folder(tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = VAEOptions(tmp_path, (faces, faces), data_weights=(2, 1), in_memory="no")
    folder = load_faces(options, 32, rank=1)
    assert [source.pixels for source in folder.sources] == [None, None]
    assert folder.weights == (2, 1)
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match="no subject is in the split test"):
        load_faces(VAEOptions(tmp_path, (faces,), split="test"), 32, rank=1)
    everything = VAEOptions(tmp_path, (faces,))
    assert (load_faces(everything, 32, rank=1).weights, everything.workers) == ((), 1)
