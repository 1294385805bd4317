"""Maxima along axes in propagation methods: equal to max pooling, winner takes all, and refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.data.preprocessing import Preprocessing

X = toys.images(2)
POOLED: dict[str, Callable[[Tensor], Tensor]] = {
    "amax": lambda z: torch.amax(z, (2, 3)),
    "negative axes": lambda z: z.amax((-1, -2)),
    "kept axes": lambda z: torch.amax(z, dim=(2, 3), keepdim=True).flatten(1),
    "amax of one axis": lambda z: z.amax(3, keepdim=True).amax(dim=-2).flatten(1),
    "max of tokens": lambda z: z.flatten(2).mT.max(dim=1).values,
    "torch.max": lambda z: torch.max(z.flatten(2), -1, keepdim=True)[0][..., 0],
    "max of two axes": lambda z: z.max(-1)[0].max(2).values,
}


class Maxima(nn.Module):
    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.reduce = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), reduce

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.reduce(self.conv(x).relu()))


def make(reduce: Callable[[Tensor], Tensor]) -> xplain.Classifier:
    torch.manual_seed(1)
    return toys.classifier(Maxima(reduce).double().eval(), preprocessing=Preprocessing(size=(8, 10)))


def explain(reduce: Callable[[Tensor], Tensor], method: str) -> xplain.Attribution:
    return xplain.attribute(make(reduce), X, method, target=[1, 3])


@pytest.mark.parametrize(
    "method", ["lrp", "deep-taylor", "deeplift", "deeplift:rule=reveal-cancel", "guided-backprop", "fullgrad"]
)
def test_maxima_equal_max_pooling(method):
    expected = explain(lambda z: nn.functional.adaptive_max_pool2d(z, 1).flatten(1), method).values
    assert float(expected.abs().max()) > 1e-4
    for reduce in POOLED.values():
        toys.assert_same(explain(reduce, method).values, expected)


def maxout(z: Tensor) -> Tensor:
    z = z.unflatten(1, (2, 3)).amax(dim=1).mean(dim=(2, 3))
    return torch.cat([z, -z], dim=1)


def choose_larger(z: Tensor) -> Tensor:
    first, second = z.unflatten(1, (2, 3)).unbind(dim=1)
    z = (first * (first >= second).detach() + second * (second > first).detach()).mean(dim=(2, 3))
    return torch.cat([z, -z], dim=1)


def test_maximum_over_channels_gives_all_to_the_winner():
    """Maxout: LRP-0 is gradient times input of the larger of two channels, and the contributions of DeepLIFT sum to the difference."""
    expected = explain(choose_larger, "input-x-gradient").values
    toys.assert_same(explain(maxout, "lrp:rule=zero").values, expected, rtol=1e-3)
    assert float(expected.abs().max()) > 1e-3
    complete = explain(maxout, "deeplift")
    toys.assert_same(complete.values.sum(dim=(1, 2, 3)), complete.expected)


def test_indices_of_maxima_are_not_followed():
    """The indices depend on the image; a model that reads values by them has no rule."""

    def gather(z: Tensor) -> Tensor:
        z = z.flatten(2)
        return z.gather(2, z.max(dim=2, keepdim=True).indices)[:, :, 0]

    with pytest.raises(UsageError, match=r"^lrp has no rule for gather in the model with a mask or a detached value"):
        explain(gather, "lrp")


@pytest.mark.parametrize("method", ["lrp", "deeplift"])
def test_maximum_over_rows_is_refused(method):
    with pytest.raises(UsageError, match=rf"^{method} has no rule for max in the model; use saliency"):
        explain(lambda z: z.mean(dim=(2, 3)) / z.max(), method)
    with pytest.raises(UsageError, match=rf"^{method} has no rule for amax in the model; use saliency"):
        explain(lambda z: (z / z.amax(dim=(0, 1))).mean(dim=(2, 3)), method)
