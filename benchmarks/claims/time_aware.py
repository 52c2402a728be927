"""Claim 4: an encoder that knows the diffusion time tells the denoiser more.

python -m benchmarks.claims.time_aware

Steps 1 and 2 at 64², once as they are and once with an encoder that always sees timestep 0, of the same budget; grid,
depth aggregation and U-Net know the time either way. Both start from weights whose encoder knew the time, which favours
the first.
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from torch import Tensor

from nvb_core.checkpoint import load_model
from nvb_core.pipeline import encode_faces
from training.evaluation.benchmark import Benchmark, BenchmarkSettings
from training.heads.dataset import HELD_OUT_SEED

from .table import method_table, write_result
from .variants import REFERENCE, Experiment, Variant, measured_variant, trained

BLIND = Variant("blind", time_aware=False)
SHOWN = ("restored_psnr", "psnr", "ssim", "ms_ssim", "identity", "yaw_reading_error", "pair_psnr")


def first_and_last_features(path: Path, experiment: Experiment) -> tuple[Tensor, Tensor]:
    """What a checkpoint's encoder makes of four held-out heads' clean photos at timesteps 0 and 999: (4, C, h, w)."""
    model = load_model(path)
    benchmark = Benchmark(
        experiment.folder / "heads_measured", BenchmarkSettings(experiment.views, model.config.image_size)
    )
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + 4)
    for _ in benchmark.render(seeds, experiment.workers):
        pass
    features = encode_faces(model, torch.stack([benchmark.load(seed).image for seed in seeds]))
    return features.at(0), features.at(999)


def encoder_table(experiment: Experiment) -> list[str]:
    """Markdown: how far time and person move the features, relative to their size."""
    lines = ["| features of | timestep 0 to 999 | one person to another |", "|---|---|---|"]
    for name, path in {"time-aware encoder": trained(REFERENCE, experiment), "weights": experiment.weights}.items():
        first, last = first_and_last_features(path, experiment)
        over_time = (last - first).norm() / first.norm()
        over_people = (first - first.roll(1, dims=0)).norm() / first.norm()
        lines.append(f"| {name} | {over_time:.3f} | {over_people:.2f} |")
    return [*lines, ""]


def main(experiment: Experiment) -> None:
    """Train, measure, write."""
    sections = {
        f"Level {level}": method_table(
            {
                "time-aware encoder": measured_variant(REFERENCE, level, experiment),
                "blind to time": measured_variant(BLIND, level, experiment),
            },
            SHOWN,
        )
        for level in (1, 2)
    }
    sections["What the encoder makes of time"] = encoder_table(experiment)
    write_result(
        experiment.folder / "time_aware.md",
        "Time-aware encoder on and off",
        sections,
        "In brackets: difference to the first row and its 95 % interval, paired over heads.",
    )


if __name__ == "__main__":
    main(tyro.cli(Experiment))
