"""Tokens of grids so small that their order is not decided by evidence: a clear contradiction is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import xplain
from tests.helpers import toys
from tests.helpers.random_architectures import WIDTH, Features, GlobalMean, ToTokens
from xplain.core.errors import UsageError

X = toys.images(2, 12, 8)


def load(order: str) -> xplain.Classifier:
    """Return a classifier of 3 x 2 patches and a class token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        stem = nn.Conv2d(3, WIDTH, 4, stride=4)
        body = nn.Sequential(ToTokens(1, order=order), toys.Attend(WIDTH, 2, "module"), toys.Attend(WIDTH, 2, "module"))
        network = nn.Sequential(Features(stem, body, GlobalMean()), nn.Linear(WIDTH, 3)).double().eval()
    network.size = (12, 8)
    return xplain.load_classifier(network, device="cpu", activation="softmax")


@pytest.mark.filterwarnings("ignore::xplain.core.errors.ModelNote")
@pytest.mark.parametrize("method", ["attention-rollout", "attention-relevance"])
def test_shuffled_tokens_of_a_small_grid_are_refused(method):
    assert xplain.attribute(load("rows"), X, method, target=0).values.shape == (2, 1, 12, 8)
    with pytest.raises(UsageError, match=r"the 7 tokens of 0\.body follow no known order"):
        xplain.attribute(load("shuffled"), X, method, target=0)


@pytest.mark.filterwarnings("ignore::xplain.core.errors.ModelNote")
def test_grad_cam_uses_the_layer_before_shuffled_tokens():
    layers = {order: xplain.attribute(load(order), X, "grad-cam", target=0).facts for order in ("rows", "shuffled")}
    assert layers == {"rows": {"layer": "0.body"}, "shuffled": {"layer": "0.stem"}}
