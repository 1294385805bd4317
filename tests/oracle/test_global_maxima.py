"""Maxima over all positions follow the rules of max pooling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError


class Maximum(nn.Module):
    """A convolutional network with a maximum over positions, as a function or as a layer."""

    def __init__(self, pool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.conv = nn.Conv2d(3, 6, 3).double()
        self.conv.weight.data = torch.randn(6, 3, 3, 3, generator=generator, dtype=torch.float64)
        self.head = nn.Linear(6, 3).double()
        self.head.weight.data = torch.randn(3, 6, generator=generator, dtype=torch.float64)
        for layer in (self.conv, self.head):
            layer.bias.data.zero_()
        self.pool, self.size = pool, (8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.conv(x).relu()).flatten(1))


FORMS = {
    "dim": lambda x: x.amax(dim=(2, 3)),
    "negative": lambda x: x.amax((-1, -2)),
    "kept": lambda x: torch.amax(x, (2, 3), keepdim=True),
}
METHODS = [
    ("lrp", {}),
    ("deeplift", {}),
    ("deeplift", {"rule": "reveal-cancel"}),
    ("fullgrad", {}),
    ("deep-taylor", {}),
    ("guided-backprop", {}),
]


@pytest.mark.filterwarnings("ignore::xplain.core.errors.ModelNote")
@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_maximum_over_positions_is_max_pooling(form, method, settings):
    actual, expected = (
        xplain.attribute(xplain.load_classifier(Maximum(pool), device="cpu"), toys.images(), method, **settings).values
        for pool in (FORMS[form], nn.AdaptiveMaxPool2d(1))
    )
    assert expected.abs().sum() > 0
    toys.assert_same(actual, expected)


@pytest.mark.filterwarnings("ignore::xplain.core.errors.ModelNote")
def test_maximum_over_channels_has_no_rule():
    model = Maximum(lambda x: x.amax(dim=1, keepdim=True).mean(dim=(2, 3)).expand(-1, 6))
    with pytest.raises(UsageError, match=r"lrp has no rule for amax in the model; use saliency"):
        xplain.attribute(xplain.load_classifier(model, device="cpu"), toys.images(), "lrp")
