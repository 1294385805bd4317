"""Controls: maps that do not depend on the model. A method that does not beat them explains nothing."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.parameters import Bounds
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.oracle import Oracle

UNDECIDED = {"sensitivity-a": "does not depend on the model"}


def _no_cost(**_: object) -> tuple[int, int]:
    """Return zero forward and backward rows."""
    return 0, 0


@method("random", access="outputs", cost=_no_cost, undecided=UNDECIDED)
def random(oracle: Oracle, x: Tensor, y: Tensor, *, rng: Streams) -> Attribution:
    """Draw uniform random values in (0, 1), one per channel and pixel.

    One value per pixel would not be a control for metrics that rank channels separately (unit=union3, unit=scalar).
    Returns (B, C, H, W).
    """
    first_sample = torch.zeros(1, dtype=torch.long, device=x.device)
    return Attribution(rng.uniform(first_sample, tuple(x.shape[1:]), x.dtype)[:, 0])


@method("sobel", access="outputs", cost=_no_cost, violates=frozenset({"sensitivity-a"}))
def sobel(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """Compute the magnitude of the Sobel gradient of the gray image.

    Gray is the mean over channels; border pixels are repeated. The kernels respond with 8 to a ramp of 1 per pixel and are
    divided by 8. Returns (B, 1, H, W).
    """
    kernel = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=x.dtype, device=x.device) / 8
    gray = F.pad(x.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slopes = F.conv2d(gray, torch.stack([kernel, kernel.T])[:, None])
    return Attribution(slopes.norm(dim=1, keepdim=True))


@method("center", access="outputs", cost=_no_cost, undecided=UNDECIDED)
def center(oracle: Oracle, x: Tensor, y: Tensor, *, sigma: Annotated[float, Bounds(above=0)] = 0.25) -> Attribution:
    """Return a Gaussian at the center of the image, 1 at its peak.

    Returns (B, 1, H, W).

    sigma: standard deviation as a share of the shorter side.
    """
    height, width = x.shape[-2:]
    rows = torch.arange(height, dtype=x.dtype, device=x.device) - (height - 1) / 2
    columns = torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2
    squares = rows[:, None] ** 2 + columns**2
    return Attribution(torch.exp(-squares / (2 * (sigma * min(height, width)) ** 2)).expand(len(x), 1, -1, -1))
