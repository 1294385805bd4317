"""Recorded attention: equal to torch's own attention, with every mask; the tokens, and the rows that are counted."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.core.types import Cost
from xplain.data.preprocessing import Preprocessing
from xplain.models.optimize import inference_copy
from xplain.oracle import Oracle
from xplain.oracle.attention import probe_attention
from xplain.oracle.attention_recorder import record_attention

GENERATOR = torch.Generator().manual_seed(0)
QUERY, KEY, VALUE = (torch.randn(2, 6, 5, 4, dtype=torch.float64, generator=GENERATOR) for _ in range(3))
ADDED_MASK = torch.randn(5, 5, dtype=torch.float64, generator=GENERATOR)
BOOL_MASK = ADDED_MASK > -0.5
BOOL_MASK.fill_diagonal_(True)
OPTIONS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "bool mask": {"attn_mask": BOOL_MASK},
    "added mask": {"attn_mask": ADDED_MASK},
}
SIZES = [(8, 10), (8, 6), (6, 10)]


class FusedAttention(nn.Module):
    """Torch's fused attention to fixed keys and values."""

    def __init__(self, key: Tensor, value: Tensor, **options) -> None:
        super().__init__()
        self.key, self.value, self.options = key, value, options

    def forward(self, query: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, self.key, self.value, **self.options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_recorded_attention_equals_torch(options):
    model = FusedAttention(KEY, VALUE, **options)
    with record_attention(model) as attentions:
        output = model(QUERY)
    assert (output - model(QUERY)).abs().max() < 1e-14
    (attention,) = attentions.recorded
    assert attention.weights.shape == (2, 6, 5, 5)
    assert (attention.weights.sum(dim=3) - 1).abs().max() < 1e-14
    assert (attention.weights @ VALUE - output).abs().max() < 1e-14
    if options.get("is_causal"):
        assert (attention.weights.triu(1) == 0).all()
    if options.get("attn_mask") is BOOL_MASK:
        assert (attention.weights[..., ~BOOL_MASK] == 0).all()


def test_grouped_queries_share_keys_and_values():
    model = FusedAttention(KEY[:, :2], VALUE[:, :2], enable_gqa=True)
    with record_attention(model) as attentions:
        output = model(QUERY)
    assert (output - model(QUERY)).abs().max() < 1e-14
    assert attentions.recorded[0].weights.shape == (2, 6, 5, 5)


def token_classifier(model: nn.Module) -> xplain.Classifier:
    """Return a classifier of small images, because the memory of attention grows with the square of the tokens."""
    return toys.classifier(model, preprocessing=Preprocessing(size=SIZES[0]))


def reduce_heads(weights: Tensor, gradients: Tensor | None) -> Tensor:
    return weights.mean(dim=1) if gradients is None else gradients.sum(dim=1)


@pytest.mark.parametrize("differentiate", [False, True])
def test_probe_attention_counts_rows(differentiate):
    model, x, y = token_classifier(toys.token_net()), toys.images(3), torch.tensor([0, 1, 2])
    rows, reported = toys.watch(model), list[int]()
    oracle = Oracle(model, images=3, batch_size=2, on_rows=reported.append)
    inference_copy(model)
    rows.clear()
    probe_attention(oracle, x, y, "toy", reduce_heads, differentiate=differentiate)
    # one row each without and with recording; one to trace the layers; 32 images that show where each token is; a row for the
    # patches and for each token before them; the images
    assert rows == [1, 1, 1, *[2] * 16, 3, 2, 1]
    assert reported == [2, 1, *[2] * 16, 3, 2, 1]
    assert oracle.cost == Cost(forwards=3, backwards=3 * differentiate, checks=38)
    assert oracle.image_rows.tolist() == [[1, differentiate]] * 3
    probe_attention(oracle, x, y, "toy", reduce_heads, differentiate=differentiate)
    assert rows[22:] == [2, 1]  # the tokens are known


def test_patches_depend_on_image_size():
    oracle = Oracle(token_classifier(toys.token_net()))
    for height, width in SIZES:
        x = toys.images(1, height, width)
        matrices, tokens, _ = probe_attention(oracle, x, torch.tensor([0]), "toy", reduce_heads, differentiate=False)
        assert tokens.layout.grid == (height // 2, width // 2)
        assert matrices[0].shape == (1, 2 + height * width // 4, 2 + height * width // 4)


class UnusedAttention(nn.Module):
    """A network of tokens that ignores the output of its first attention."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toys.token_net()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.net.conv2(self.net.pool(x.repeat(1, 3, 1, 1)[:, :8])).flatten(2).transpose(1, 2)
        self.net.blocks[0](tokens)
        return self.net.head(self.net.blocks[1](tokens).mean(dim=1))


def test_unused_attention_has_zero_gradients():
    oracle = Oracle(token_classifier(UnusedAttention()))
    y = torch.tensor([0, 1])
    matrices, _, _ = probe_attention(oracle, toys.images(2), y, "toy", reduce_heads, differentiate=True)
    assert matrices[0].unique().tolist() == [0]
    assert matrices[1].abs().max() > 1e-6


CHANGED = (
    "^toy does not support the model: its logits change when its attention is computed as a softmax of products; "
    "use grad-cam, integrated-gradients or rise$"
)


class Drifting(nn.Module):
    """A network of tokens whose logits change by ``drift`` in every second call."""

    calls = 0

    def __init__(self, drift: float) -> None:
        super().__init__()
        self.net, self.drift = toys.token_net().float(), drift

    def forward(self, x: Tensor) -> Tensor:
        Drifting.calls += 1
        return self.net(x) + self.drift * (Drifting.calls % 2)


@pytest.mark.parametrize(("drift", "refused"), [(0.0001, "none"), (0.2, "both"), (0.02, "fp32")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_changed_logits_are_refused(drift, refused, precision):
    oracle = Oracle(token_classifier(Drifting(drift)), precision=precision)
    x, y = toys.images(1).float(), torch.tensor([0])
    if refused in (precision, "both"):
        with pytest.raises(UsageError, match=CHANGED):
            probe_attention(oracle, x, y, "toy", reduce_heads, differentiate=False)
    else:
        result = probe_attention(oracle, x, y, "toy", reduce_heads, differentiate=False)
        assert result.tokens.layout.grid == (4, 5)
