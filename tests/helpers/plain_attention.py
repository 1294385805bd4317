"""Torch's attention as a handwritten softmax, whose weights tests can read and differentiate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def plain_attention() -> Iterator[list[Tensor]]:
    """Compute ``F.scaled_dot_product_attention`` and ``nn.MultiheadAttention`` as a softmax, and return the list of its weights."""
    recorded: list[Tensor] = []
    original = nn.MultiheadAttention.forward

    def attention(query: Tensor, key: Tensor, value: Tensor, *masks: None, scale: float | None = None, **_) -> Tensor:
        assert masks in ((), (None,), (None, 0.0), (None, 0.0, False))
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        weights = (query @ key.transpose(2, 3) * factor).softmax(dim=-1)
        recorded.append(weights)
        return weights @ value

    def forward(self: nn.MultiheadAttention, *args: Tensor, **options) -> tuple[Tensor, Tensor | None]:
        return original(self, *args, **options | {"need_weights": False})

    with (
        patch.object(F, "scaled_dot_product_attention", attention),
        patch.object(nn.MultiheadAttention, "forward", forward),
    ):
        yield recorded
