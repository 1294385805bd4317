"""Guided Grad-CAM: the product of its two parts, and captum with bilinear upsampling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError


@pytest.fixture
def clf():
    return toys.classifier(toys.small_net())


def test_guided_grad_cam_is_product_of_parts(clf):
    x = toys.images(3)
    result = xplain.attribute(clf, x, "guided-grad-cam", target=[0, 1, 2])
    parts = [xplain.attribute(clf, x, name, target=[0, 1, 2]).values for name in ("guided-backprop", "grad-cam")]
    torch.testing.assert_close(result.values, parts[0] * parts[1], rtol=1e-12, atol=0)
    assert result.facts == {"layer": "act2"}
    assert (result.cost.forwards, result.cost.backwards) == (6, 6)


def test_guided_grad_cam_agrees_with_captum(clf):
    attr = pytest.importorskip("captum.attr")
    x = toys.images(2)
    theirs = attr.GuidedGradCam(clf.model, clf.model.act2).attribute(
        x.requires_grad_(), target=1, interpolate_mode="bilinear"
    )
    ours = xplain.attribute(clf, x.detach(), "guided-grad-cam", target=1).values
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-12)


def test_operations_without_rule_are_refused():
    clf = toys.classifier(toys.small_net(activation=CustomFunction))
    with pytest.raises(UsageError, match="guided-backprop cannot trace compiled or custom operations"):
        xplain.attribute(clf, toys.images(1), "guided-grad-cam")


class CustomFunction(torch.nn.Module):
    """A custom autograd function, for which no rule is known."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return toys.Hidden.apply(x)


def test_zero_grad_cam_gives_zero():
    class Falling(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 2, 1, bias=False).double()
            torch.nn.init.ones_(self.conv.weight)

        def forward(self, x):
            features = F.relu(self.conv(x))
            return torch.stack([-features.mean((1, 2, 3)), features.mean((1, 2, 3))], dim=1)

    result = xplain.attribute(toys.classifier(Falling()), toys.images(1), "guided-grad-cam", target=0)
    assert not result.values.any()
