"""Claim 4: an encoder that knows the diffusion time tells the denoiser more.

python -m benchmarks.claims.time_aware

Steps 1 and 2 at 64², once as they are and once with an encoder that always sees timestep 0, of the same budget; grid,
depth aggregation and U-Net know the time either way. Both start from weights whose encoder knew the time, which favours
the first.
"""

from __future__ import annotations

import tyro

from .table import method_table, write_result
from .variants import REFERENCE, Experiment, Variant, measured_variant

BLIND = Variant("blind", time_aware=False)
SHOWN = ("restored_psnr", "psnr", "ssim", "ms_ssim", "identity", "yaw_reading_error", "pair_psnr")


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
    write_result(
        experiment.folder / "time_aware.md",
        "Time-aware encoder on and off",
        sections,
        "In brackets: difference to the first row and its 95 % interval, paired over heads.",
    )


if __name__ == "__main__":
    main(tyro.cli(Experiment))
