"""Run by ComfyUI's interpreter: writes a tiny ×4 upscaler with random weights, of the architecture of ESRGAN files.

python upscaler.py FILE
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN


def write_upscaler(path: Path) -> None:
    torch.manual_seed(0)
    network = ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=4)
    with torch.no_grad():
        picture = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4), size=64, mode="bilinear")
        stretch(network.model[-1], network(picture))
    state = network.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def stretch(last: torch.nn.Conv2d, output: torch.Tensor) -> None:
    """Change the last layer so that each channel of `output` would have mean 0.5 and deviation 0.2, as pictures do."""
    mean, deviation = output.mean(dim=(0, 2, 3)), output.std(dim=(0, 2, 3))
    assert last.bias is not None
    last.weight *= (0.2 / deviation)[:, None, None, None]
    last.bias.copy_((last.bias - mean) * 0.2 / deviation + 0.5)


if __name__ == "__main__":
    write_upscaler(Path(sys.argv[1]))
