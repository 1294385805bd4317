"""Attention written out: the numbers of torch's own, whatever mask it is given, and the weights behind them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xplain.core.errors import UsageError
from xplain.models.layers import Layout
from xplain.oracle.attention import find_patches
from xplain.oracle.attention_recorder import record_attention

GENERATOR = torch.Generator().manual_seed(0)
QUERY, KEY, VALUE = (torch.randn(2, 6, 5, 4, dtype=torch.float64, generator=GENERATOR) for _ in range(3))
SHIFT = torch.randn(5, 5, dtype=torch.float64, generator=GENERATOR)
SEEN = SHIFT > -0.5
SEEN.fill_diagonal_(True)
OPTIONS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "what is seen": {"attn_mask": SEEN},
    "what is added": {"attn_mask": SHIFT},
}


class Fused(nn.Module):
    """Torch's attention of given keys and values."""

    def __init__(self, key: Tensor, value: Tensor, **options) -> None:
        super().__init__()
        self.key, self.value, self.options = key, value, options

    def forward(self, query: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, self.key, self.value, **self.options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_attention_written_out_is_torchs(options):
    model = Fused(KEY, VALUE, **options)
    with record_attention(model) as sites:
        found = model(QUERY)
    assert (found - model(QUERY)).abs().max() < 1e-14
    (site,) = sites
    assert site.weights.shape == (2, 6, 5, 5)
    assert (site.weights.sum(dim=3) - 1).abs().max() < 1e-14
    assert (site.weights @ VALUE - found).abs().max() < 1e-14
    if options.get("is_causal"):
        assert (site.weights.triu(1) == 0).all()
    if options.get("attn_mask") is SEEN:
        assert (site.weights[..., ~SEEN] == 0).all()


def test_heads_may_share_keys_and_values():
    model = Fused(KEY[:, :2], VALUE[:, :2], enable_gqa=True)
    with record_attention(model) as sites:
        found = model(QUERY)
    assert (found - model(QUERY)).abs().max() < 1e-14
    assert sites[0].weights.shape == (2, 6, 5, 5)


def test_the_last_grid_of_as_many_tokens_is_the_patches():
    layouts = [Layout("tokens", (2, 3), 1), Layout("tokens", (3, 2), 1), Layout("tokens", (3, 3), 1), Layout()]
    assert find_patches("attention-rollout", 7, layouts) == Layout("tokens", (3, 2), 1)
    with pytest.raises(
        UsageError, match="attention-rollout requires attention over one grid of tokens, but 8 tokens are not a grid"
    ):
        find_patches("attention-rollout", 8, layouts)
