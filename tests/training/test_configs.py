from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

FOLDER = Path(str(files("training"))) / "configs" / "accelerate"
EXPECTED = {"one_gpu": ("NO", 1, 1), "eight_gpus": ("MULTI_GPU", 1, 8), "two_nodes": ("MULTI_GPU", 2, 16)}


def test_every_file_is_known() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_it(name: str) -> None:
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    found = (getattr(config.distributed_type, "value", config.distributed_type), config.num_machines)
    assert (*found, config.num_processes) == EXPECTED[name]
    assert not config.fsdp_config
    assert not config.deepspeed_config
    assert config.mixed_precision == "no"


@pytest.mark.parametrize("name", ["eight_gpus", "two_nodes"])
def test_accelerate_launches_what_it_says(name: str) -> None:
    argv = ["--config_file", str(FOLDER / f"{name}.yaml"), "--machine_rank", "1", "-m", "training.step1", "--out", "x"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(argv))
    assert args.multi_gpu
    assert (args.num_machines, args.num_processes) == EXPECTED[name][1:]
    assert args.machine_rank == 1
    assert (args.training_script, args.training_script_args) == ("training.step1", ["--out", "x"])
