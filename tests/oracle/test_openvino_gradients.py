"""Backward passes in operations that OpenVINO knows, against PyTorch's, and scores as sums of transformed logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xplain.models.outputs import OutputKind
from xplain.oracle.linear_scores import list_transforms, score_weights
from xplain.oracle.openvino_gradients import ATEN, gradient_decompositions
from xplain.oracle.scores import compute_scores

TABLE = gradient_decompositions()
MAX_POOL = TABLE[ATEN.max_pool2d_with_indices_backward.default]
AVERAGE_POOL = TABLE[ATEN.avg_pool2d_backward.default]
ADAPTIVE_POOL = TABLE[ATEN._adaptive_avg_pool2d_backward.default]
CONVOLUTION = TABLE[ATEN.convolution_backward.default]


def gradient_of(function, x, seed=0):
    """Return a gradient at the output of a function, and that of PyTorch at its input."""
    x = x.clone().requires_grad_()
    y = function(x)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return gradient, torch.autograd.grad(y, x, gradient)[0]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil"),
    [(3, 2, 1, False), (2, 2, 0, False), (3, 1, 1, False), (3, 2, 0, True), (2, 3, 0, False), (5, 2, 2, True)],
)
@pytest.mark.parametrize("size", [(13, 14), (16, 16)])
def test_max_pool_gradient_of_ties(kernel, stride, padding, ceil, size):
    x = torch.randint(0, 4, (1, 2, *size), generator=torch.Generator().manual_seed(1)).double()
    gradient, expected = gradient_of(lambda x: F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil), x)
    actual = MAX_POOL(gradient, x, [kernel] * 2, [stride] * 2, [padding] * 2, [1, 1], ceil, None)
    assert torch.allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_average_pool_gradient(kernel, stride, padding):
    x = torch.rand(1, 2, 11, 12, dtype=torch.float64)
    gradient, expected = gradient_of(lambda x: F.avg_pool2d(x, kernel, stride, padding), x)
    actual = AVERAGE_POOL(gradient, x, [kernel] * 2, [stride] * 2, [padding] * 2, False, True, None)
    assert torch.allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("output", [(7, 7), (3, 5), (1, 1), (12, 2)])
def test_adaptive_pool_gradient(output):
    x = torch.rand(1, 2, 8, 9, dtype=torch.float64)
    gradient, expected = gradient_of(lambda x: F.adaptive_avg_pool2d(x, output), x)
    assert torch.allclose(ADAPTIVE_POOL(gradient, x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("groups", "stride", "padding", "dilation"),
    [(1, 1, 1, 1), (2, 1, 0, 1), (4, 1, 2, 2), (1, 2, 1, 1), (4, 2, 1, 1), (1, 1, 5, 1), (2, 3, 0, 2)],
)
def test_convolution_gradient(groups, stride, padding, dilation):
    conv = nn.Conv2d(4, 8, 3, stride, padding, dilation, groups).double()
    x = torch.rand(1, 4, 10, 11, dtype=torch.float64)
    gradient, expected = gradient_of(conv, x)
    wide = [[value] * 2 for value in (stride, padding, dilation)]
    actual = CONVOLUTION(gradient, x, conv.weight, [8], *wide, False, [0, 0], groups, [True, False, False])[0]
    assert torch.allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "binary", "none"])
@pytest.mark.parametrize("kind", ["logit", "prob", "log-prob", "contrast:gamma=0.4,classes=2"])
@pytest.mark.parametrize("contrasted", [False, True])
def test_weights_give_the_score(activation, kind, contrasted):
    output = OutputKind(activation)
    logits = torch.randn(3, 2 if activation == "binary" else 5, generator=torch.Generator().manual_seed(2))
    if activation == "binary":
        logits = torch.stack([-logits[:, 0], logits[:, 0]], dim=1)
    y = torch.tensor([1, 0, 1])
    against = (1 - y[:, None] if activation == "binary" else torch.tensor([[2, 3]] * 3)) if contrasted else None
    transforms = list_transforms(output)
    if kind not in transforms and not (contrasted and activation != "binary" and kind.startswith("contrast")):
        if not kind.startswith("contrast") or not contrasted:
            assert score_weights(y, kind, against, output, logits.shape[1]) is None
        return
    weights = score_weights(y, kind, against, output, logits.shape[1])
    values = torch.stack([transform(logits) for transform in transforms.values()], dim=1)
    actual = (values * weights).sum(dim=(1, 2))
    assert torch.allclose(actual, compute_scores(logits, y, kind, against, output), atol=1e-6)


def test_other_scores_have_no_weights():
    y = torch.tensor([1, 0])
    softmax = OutputKind("softmax")
    assert score_weights(y, "margin", None, softmax, 3) is None
    assert score_weights(y, "double-prob", None, softmax, 3) is None
    assert score_weights(y[:, None], "logit", None, softmax, 3) is None
