from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import write_faces  # noqa: F401
from safetensors.torch import load_file

from nvb_core.checkpoint import load_model, read_metadata
from nvb_core.config import PRESETS, tiny_config
from nvb_core.errors import ConfigError
from training import mini, step1
from training.mini import SHARES, main
from training.state import read_progress
