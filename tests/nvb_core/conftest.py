from __future__ import annotations

import pytest
import torch

from nvb_core.config import tiny_config
from nvb_core.model import NVBModel


@pytest.fixture(scope="module")
def tiny_model() -> NVBModel:
    """A tiny model without zeros in it: zero-initialised parameters would hide what they multiply."""
    torch.manual_seed(0)
    model = NVBModel(tiny_config()).requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model
