"""How far the logits of a rewritten forward may be from the model's own."""

from __future__ import annotations

import pytest
import torch

from xplain.core.errors import UsageError
from xplain.oracle.propagation import (
    check_same_logits,
)

LOGITS = torch.tensor([[2.0, -4.0, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 0.01])  # the largest logit counts, and no less than 1
@pytest.mark.parametrize(
    ("dtype", "loose", "share"),
    [
        (torch.float64, False, 1e-9),
        (torch.float32, False, 5e-3),
        (torch.float32, True, 5e-2),
        (torch.float64, True, 5e-2),
    ],
)
def test_logits_may_differ_by_a_share_of_the_largest(dtype, loose, share, scale):
    expected = (LOGITS * scale).to(dtype)
    most = share * max(4 * scale, 1)
    for size, same in ((0.9, True), (-0.9, True), (1.1, False), (-1.1, False)):
        actual = expected.clone()
        actual[0, 2] += size * most
        if same:
            check_same_logits("toy", actual, expected, loose=loose)
        else:
            with pytest.raises(
                UsageError, match="toy cannot follow the model's forward pass: its logits change; use saliency"
            ):
                check_same_logits("toy", actual, expected, loose=loose)


@pytest.mark.parametrize("actual", [LOGITS[:, :2], LOGITS * torch.nan, LOGITS * torch.inf])
def test_logits_of_another_shape_or_that_are_not_finite_are_not_the_same(actual):
    with pytest.raises(UsageError, match="its logits change"):
        check_same_logits("toy", actual, LOGITS, loose=True)
