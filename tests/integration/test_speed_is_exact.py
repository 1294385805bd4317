"""Folding, layout and batching do not change results, and memory does not grow with the number of nodes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.methods._quadrature import quadrature
from xplain.models.optimize import inference_copy


def plain_integrated_gradients(classifier: xplain.Classifier, x: Tensor, target: int, steps: int) -> Tensor:
    """Return integrated gradients from black, one node at a time, on the unprepared model."""
    nodes, weights = quadrature("gauss-legendre", steps, x)
    total = torch.zeros_like(x)
    for node, weight in zip(nodes, weights, strict=True):
        point = (node * x).requires_grad_()
        total += weight * torch.autograd.grad(classifier(point)[:, target].sum(), point)[0]
    return x * total


@pytest.mark.parametrize(
    ("name", "weights"), [("efficientnet-lite0", None), ("resnet18", "random"), ("densenet121", "random")]
)
def test_prepared_model_matches_plain(name, weights):
    classifier = xplain.load_classifier(name, "cpu", weights)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    prepared = inference_copy(classifier)
    with torch.no_grad():
        expected = classifier(x)
        assert (prepared(prepared.to_memory_format(x)) - expected).abs().max() < 1e-4 * expected.abs().max()
    ours = xplain.attribute(classifier, x, "ig", target=7, steps=7, batch_size=3).values.double().flatten(1)
    theirs = plain_integrated_gradients(classifier, x, 7, 7).double().flatten(1)
    assert torch.cosine_similarity(ours, theirs, dim=1).min() > 0.9999


@pytest.mark.parametrize("steps", [50, 1000])
def test_batch_size_limits_rows(steps):
    classifier = toys.classifier(toys.small_net())
    rows = toys.watch(classifier)
    xplain.attribute(classifier, toys.images(1), "ig", target=1, steps=steps, batch_size=10)
    assert max(rows) == 10
