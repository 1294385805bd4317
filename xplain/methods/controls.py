"""Controls: maps that know nothing of the model. A method that does not beat them explains nothing."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.parameters import Bounds
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.oracle import Oracle


def _free(**_: object) -> tuple[int, int]:
    return 0, 0


@method("random", cost=_free)
def random(oracle: Oracle, x: Tensor, y: Tensor, *, rng: Streams) -> Attribution:
    """Uniform random values in (0, 1), one for each channel of each pixel. Returns (B, C, H, W).

    With one value a pixel it would be no control where channels are ranked by themselves (unit=union3, unit=scalar).
    """
    first = torch.zeros(1, dtype=torch.long, device=x.device)
    return Attribution(rng.uniform(first, tuple(x.shape[1:]), x.dtype)[:, 0])


@method("sobel", cost=_free)
def sobel(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """The magnitude of the Sobel gradient of the grey image, borders repeated. Returns (B, 1, H, W).

    Grey is the mean over channels; the kernels sum to 8 over a unit ramp of 1 a pixel and are divided by 8.
    """
    kernel = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=x.dtype, device=x.device) / 8
    grey = F.pad(x.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slopes = F.conv2d(grey, torch.stack([kernel, kernel.T])[:, None])
    return Attribution(slopes.norm(dim=1, keepdim=True))


@method("center", cost=_free)
def center(oracle: Oracle, x: Tensor, y: Tensor, *, sigma: Annotated[float, Bounds(above=0)] = 0.25) -> Attribution:
    """A Gaussian at the centre of the image, 1 at its peak. Returns (B, 1, H, W).

    sigma: standard deviation as a share of the shorter side.
    """
    height, width = x.shape[-2:]
    rows, columns = (torch.arange(side, dtype=x.dtype, device=x.device) - (side - 1) / 2 for side in (height, width))
    squares = rows[:, None] ** 2 + columns**2
    return Attribution(torch.exp(-squares / (2 * (sigma * min(height, width)) ** 2)).expand(len(x), 1, -1, -1))
