from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.claims.base import is_finished
from nvb_core.errors import ConfigError
from training.options import Step1Options
from training.state import Progress, save_state, weights_sha256


def test_a_stage_that_was_trained_from_other_weights_is_refused(tmp_path: Path) -> None:
    """As step 1 is where the autoencoder before it has been trained on."""
    init = tmp_path / "vae.safetensors"
    options = Step1Options(out=tmp_path, data=(tmp_path,), init=init)
    assert not is_finished(options, "step1")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    save_file({"x": torch.zeros(2)}, init)
    progress = Progress(step=3, init_sha256=weights_sha256(init))
    save_state(tmp_path / "state.safetensors", progress, {"x": parameter}, [torch.zeros(1)], optimizer)
    assert not is_finished(options, "step1")  # no model yet
    save_file({"x": torch.ones(2)}, init)
    with pytest.raises(ConfigError, match="this run started from another"):
        is_finished(options, "step1")
