"""Composite operations written out: the same values as torch's own, and the axis of the rows after them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.oracle import Oracle, written_out
from xplain.oracle.operations import Operation
from xplain.oracle.propagation import propagate
from xplain.oracle.propagation_rules import Rules, keep_gradient

EVERYTHING = keep_gradient(
    *("route", "sum", "shift", "scale", "linear", "norm", "rectifier", "activation", "max", "product"),
    *("bilinear", "division", "power", "length", "layer-norm", "softmax"),
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": noise(5, 5, seed=3)},
        {"attn_mask": noise(5, 5, seed=3) > -1},
    ],
)
def test_fused_attention(options):
    q, k, v = (noise(2, 3, 5, 4, seed=seed) for seed in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    assert_equal(written_out.scaled_dot_product_attention(q, k, v, **options), expected)


def test_grouped_queries():
    q, k, v = noise(2, 6, 5, 4), noise(2, 3, 5, 4, seed=1), noise(2, 3, 5, 4, seed=2)
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert_equal(written_out.scaled_dot_product_attention(q, k, v, enable_gqa=True), expected)


@pytest.mark.parametrize("width", [None, 6])  # of keys and values, whose weights are then separate
@pytest.mark.parametrize("masks", ["none", "causal", "per head", "padding", "both"])
@pytest.mark.parametrize("average", [True, False])
def test_multi_head_attention(width, masks, average):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.MultiheadAttention(8, 2, kdim=width, vdim=width).double()
        nn.init.normal_(module.in_proj_bias)
    query, keys = noise(5, 3, 8), noise(4, 3, width or 8, seed=1)
    options: dict[str, object] = {"average_attn_weights": average}
    if masks in ("causal", "both"):
        options["attn_mask"] = torch.ones(5, 4, dtype=torch.bool).triu(1)
    if masks == "per head":
        options["attn_mask"] = noise(6, 5, 4, seed=2)
    if masks in ("padding", "both"):
        options["key_padding_mask"] = torch.tensor([[False] * 3 + [True], [False] * 4, [False, True, False, False]])
    expected = module(query, keys, keys, **options)
    calls = []

    class Record(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is F.multi_head_attention_forward:
                calls.append(1)
                return written_out.multi_head_attention_forward(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    with Record():
        actual = module(query, keys, keys, **options)
    assert calls == [1]
    assert_equal(actual[0], expected[0])
    assert_equal(actual[1], expected[1])


def test_extra_keys_are_not_written_out():
    module = nn.MultiheadAttention(8, 2, add_zero_attn=True).double().requires_grad_(False)
    model = toys.classifier(toys.Function(lambda x: module(*[x.flatten(2)[..., :8]] * 3)[0].mean(dim=1)))
    message = "toy has no rule for multi_head_attention_forward in the model"
    with pytest.raises(UsageError, match=message):
        propagate(Oracle(model), toys.images(2), torch.tensor([0, 1]), Rules("toy", EVERYTHING, ""))


def test_normalizations():
    x, weight, bias = noise(2, 6, 3, 4), noise(6, seed=1), noise(6, seed=2)
    assert_equal(written_out.normalize(x, dim=-1), F.normalize(x, dim=-1))
    assert_equal(written_out.group_norm(x, 3, weight, bias, 1e-3), F.group_norm(x, 3, weight, bias, 1e-3))
    assert_equal(written_out.group_norm(x, 2), F.group_norm(x, 2))
    for options in ({"dim": 1}, {"dim": (1, 2), "unbiased": False}, {"dim": [-1], "correction": 0, "keepdim": True}):
        assert_equal(written_out.variance(x, **options), x.var(**options))
        assert_equal(written_out.deviation(x, **options), x.std(**options))
        variance, mean = written_out.variance_and_mean(x, **options)
        assert_equal(variance, torch.var_mean(x, **options)[0])
        assert_equal(mean, torch.var_mean(x, **options)[1])
    assert written_out.variance(x) is NotImplemented


EXPRESSIONS = {
    "1 / x": lambda v: 2 / v,
    "divide": lambda v: torch.div(torch.ones_like(v), v),
    "x / x": lambda v: v / v.mean(dim=1, keepdim=True),
    "power": lambda v: v**1.5 + 2**v,
    "property": lambda v: (v.mT @ v).mT[:, :3],
    "matrix": lambda v: torch.ones(3, 8, dtype=v.dtype) @ v,
    "addcmul": lambda v: torch.addcmul(torch.ones(8, 3, dtype=v.dtype), v, torch.full_like(v, 2.0), value=0.5),
    "baddbmm": lambda v: torch.baddbmm(torch.ones(1, 8, 8, dtype=v.dtype), v, v.transpose(1, 2), beta=0.5, alpha=2),
    "variance": lambda v: v / (v.var(dim=-1, keepdim=True) + 1).sqrt(),
    "norm": lambda v: v / v.norm(dim=-1, keepdim=True) + F.normalize(v, dim=1),
}


@pytest.mark.parametrize("name", list(EXPRESSIONS))
def test_kept_gradients_are_the_gradient(name):
    """Writing an operation out changes neither its value nor its gradient."""
    function = EXPRESSIONS[name]
    model = toys.classifier(toys.Function(lambda x: function(x.mean(dim=3).mT + 0.2).flatten(2).sum(dim=1)))
    x, y = toys.images(3), torch.tensor([0, 1, 2])
    result = propagate(Oracle(model), x, y, Rules("toy", EVERYTHING, "", rows="any"), 1 - x)
    expected = Oracle(model).gradients(x, y)
    assert_equal(result.scores, expected.scores)
    assert_equal(result.gradients[:, 0], expected.values)


MOVED = {
    "permute": (lambda v: v.permute(1, 0, 2), 1),
    "heads": (lambda v: v.reshape(len(v), 8, 3, 1).permute(2, 0, 1, 3), 1),
    "one of heads": (lambda v: v.reshape(len(v), 8, 3, 1).permute(2, 0, 1, 3)[1], 0),
    "unbind": (lambda v: v.transpose(0, 1).unbind(0)[2], 0),
    "windows": (lambda v: v.reshape(len(v), 2, 4, 3).flatten(0, 1), 0),
    "mean": (lambda v: v.permute(1, 2, 0).mean(dim=0), 1),
    "slice": (lambda v: v.permute(1, 0, 2)[2:4], 1),
}


@pytest.mark.parametrize("name", MOVED)
def test_row_axis_is_followed(name):
    move, axis = MOVED[name]
    seen = []

    def note(op: Operation) -> Tensor:
        seen.append(op.row_axis)
        return op.run()

    def model(x: Tensor) -> Tensor:
        moved = torch.relu(move(x.mean(dim=3).mT + 0.5))
        return torch.relu(moved).movedim(axis, 0).reshape(len(x), -1)

    table = EVERYTHING | {"rectifier": note}
    x = toys.images(2)
    for streams in ((), (1 - x,)):
        rules = Rules("toy", table, "", rows="any")
        propagate(Oracle(toys.classifier(toys.Function(model))), x, torch.tensor([0, 1]), rules, *streams)
    assert seen == [axis] * 4


def test_unknown_row_axis_is_refused():
    """Rules that compare rows along the first axis refuse others, and sums over tokens hide the rows."""
    x, y = toys.images(2), torch.tensor([0, 1])
    moved = toys.classifier(toys.Function(lambda x: torch.relu(x.mean(dim=3).permute(1, 0, 2)).permute(1, 0, 2)[:, 0]))
    message = "toy cannot find the images of a call among the axes of relu in the model; use saliency"
    with pytest.raises(UsageError, match=message):
        propagate(Oracle(moved), x, y, Rules("toy", EVERYTHING, "", rows="first"), x)
    summed = toys.classifier(toys.Function(lambda x: x.mean(dim=3).permute(1, 0, 2).sum(dim=0)))
    with pytest.raises(UsageError, match="toy cannot find the images of a call among the axes of sum in the model"):
        propagate(Oracle(summed), x, y, Rules("toy", EVERYTHING, "", rows="any"), x)
