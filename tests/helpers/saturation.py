"""Networks that are flat at the image although one value changes the score: witnesses of Sensitivity(a)."""

import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys

POSITION = (0, 3, 4)  # channel, row and column of the value that matters
SHAPE = (3, 8, 10)
SLOPE = 20  # so that noise, radii and steps of local methods stay where the score is flat


def image() -> Tensor:
    """Return the image (1, 3, 8, 10) float64 that differs from black in the value at POSITION, which is 1."""
    x = torch.zeros(1, *SHAPE, dtype=torch.float64)
    x[0][POSITION] = 1
    return x


def saturated(sign: float = 1, offset: float = 0) -> xplain.Classifier:
    """Return the network whose logit 0 is offset + sign (1 - ReLU(1 - SLOPE x_j)) for the value x_j at POSITION; logit 1 is 0.

    A 1 x 1 convolution and a ReLU on channel 0, then a linear layer that reads one pixel.
    """
    convolution, head = nn.Conv2d(3, 1, 1), nn.Linear(80, 2)
    nn.init.zeros_(convolution.weight)
    convolution.weight.data[0, POSITION[0]] = -SLOPE
    nn.init.ones_(convolution.bias)
    nn.init.zeros_(head.weight)
    head.weight.data[0, POSITION[1] * SHAPE[2] + POSITION[2]] = -sign
    head.bias.data = torch.tensor([offset + sign, 0.0])
    return toys.classifier(nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), head).double())


WITNESSES = {"rising": saturated(), "falling": saturated(-1, 1.0), "negative": saturated(1, -1.0)}
