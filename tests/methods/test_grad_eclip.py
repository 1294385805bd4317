"""Grad-ECLIP: an exact sum, literal versions on several libraries, flat similarities, and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from tests.helpers.transformers import small_images, small_transformer
from tests.reference import legrad as literal
from xplain.core.errors import UsageError
from xplain.data.preprocessing import Preprocessing
from xplain.oracle import Oracle
from xplain.oracle.last_attention import probe_last_attention

X = toys.images(2)
TARGETS = torch.tensor([2, 0])


def small(model: nn.Module) -> xplain.Classifier:
    return toys.classifier(model, preprocessing=Preprocessing(size=tuple(X.shape[-2:])))


def upsampled(patches: Tensor, height: int, width: int, side: tuple[int, int]) -> Tensor:
    return F.interpolate(patches.reshape(1, 1, height, width), side, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("kind", ["fused", "module"])
def test_weighted_values_sum_to_gradient_times_output(kind):
    """With λ = 1 and before the positive part, Σ_k A_cls,k Σ_d w_d v_kd = w · o_cls, with the key of the class token."""
    oracle = Oracle(small(toys.token_net(kind=kind)))
    attention = probe_last_attention(oracle, X, TARGETS, "grad-eclip")
    assert (oracle.cost.forwards, oracle.cost.backwards) == (2, 2)
    per_head = (attention.gradient[:, None] * attention.values).unflatten(2, (3, 4)).sum(dim=3)
    total = (attention.weights.mT * per_head).sum(dim=(1, 2))
    expected = (attention.gradient * attention.output).sum(dim=1)
    toys.assert_same(total, expected, rtol=1e-12)
    assert float(expected.abs().min()) > 1e-3


def last_block(net: nn.Module, x: Tensor, y: int) -> tuple[Tensor, ...]:
    """Return the gradient at the heads' output of the class token, values, and projected query and keys of the last block."""
    block = net.blocks[-1]
    kept: list[Tensor] = []
    hook = block.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    net(x)
    hook.remove()
    inner, z = block.inner, block.norm(kept[0])
    q, k, v = F.linear(z, inner.in_proj_weight, inner.in_proj_bias)[0].chunk(3, dim=1)
    heads = [
        (q_h @ k_h.T / 2).softmax(dim=1) @ v_h
        for q_h, k_h, v_h in zip(*(t.split(4, dim=1) for t in (q, k, v)), strict=True)
    ]
    output = torch.cat(heads, dim=1).detach().requires_grad_()
    logits = net.head(kept[0][0, 0] + inner.out_proj(output)[0])
    (gradient,) = torch.autograd.grad(logits[y], output)
    return gradient[0], v, inner.out_proj(q[0]), inner.out_proj(k)


@pytest.mark.parametrize("similarity", [True, False])
@pytest.mark.parametrize("kind", ["fused", "module"])
def test_equals_literal_version(kind, similarity):
    """The key of the class token is the least similar one, and has no effect on the scale of the patches."""
    net = toys.token_net(4, kind=kind)
    values = xplain.attribute(small(net), X, "grad-eclip", target=TARGETS, similarity=similarity).values
    for i in range(2):
        gradient, v, query, keys = last_block(net, X[i : i + 1], int(TARGETS[i]))
        parts = (query, keys) if similarity else (None, None)
        expected = literal.grad_eclip(gradient, v, *parts, patches=slice(2, None))
        toys.assert_same(values[i], upsampled(expected[2:], 4, 5, (8, 10)))
        assert float(values[i].min()) >= 0
        assert float(values[i].std()) > 0


PARTS = {  # the modules that compute queries, keys and values of the last block, and the one that takes its heads
    "timm-vit": (["blocks.1.attn.qkv"], "blocks.1.attn.proj"),
    "transformers-vit": (
        [f"inner.vit.layers.1.attention.{letter}_proj" for letter in "qkv"],
        "inner.vit.layers.1.attention.o_proj",
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_libraries_equal_literal_version(name):
    """Hooks read queries, keys, values and the heads of the last block."""
    classifier, x = small_transformer(name), small_images(1)
    values = xplain.attribute(classifier, x, "grad-eclip", target=2).values
    projections, out = PARTS[name]
    modules = dict(classifier.model.named_modules())
    outputs: list[Tensor] = []
    heads: list[Tensor] = []
    hooks = [
        *(modules[part].register_forward_hook(lambda _, __, output: outputs.append(output)) for part in projections),
        modules[out].register_forward_pre_hook(lambda _, inputs: heads.append(inputs[0])),
    ]
    with torch.enable_grad():
        logits = classifier(x)
    for hook in hooks:
        hook.remove()
    q, k, v = torch.cat(outputs, dim=2)[0].chunk(3, dim=1)
    (gradient,) = torch.autograd.grad(logits[0, 2], heads[0])
    project = modules[out]
    expected = literal.grad_eclip(gradient[0, 0], v, project(q[0]), project(k), slice(1, None))
    toys.assert_same(values[0], upsampled(expected[1:], 4, 4, (32, 32)), rtol=1e-9)
    assert float(values.max()) > 0


def test_equal_similarities_weigh_one():
    """If all keys are equal, so are their cosines, and the map is that of λ = 1."""
    net = toys.token_net()
    with torch.no_grad():
        net.blocks[1].inner.in_proj_weight[12:24] = 0
    classifier = small(net)
    flat = xplain.attribute(classifier, X, "grad-eclip", target=2).values
    assert torch.equal(flat, xplain.attribute(classifier, X, "grad-eclip", target=2, similarity=False).values)
    assert float(flat.max()) > 0


def refusal(net: nn.Module) -> str:
    with pytest.raises(UsageError) as error:
        xplain.attribute(small(net), X, "grad-eclip", target=2)
    return str(error.value)


def test_models_without_one_class_token_are_refused():
    text = "grad-eclip requires a model whose logits read one class token, but they read {}; use attention-relevance or legrad"
    assert refusal(toys.token_net(average=True)) == text.format("20 of 22 tokens")
    with pytest.raises(UsageError) as error:
        xplain.attribute(small_transformer("timm-siglip"), small_images(1), "grad-eclip", target=2)
    assert str(error.value) == text.format("all tokens by an attention with one query")


def test_handwritten_attention_is_refused():
    assert refusal(toys.token_net(kind="softmax")) == (
        "grad-eclip requires the queries, keys and values of the last attention, but that of blocks.1 is not torch's attention followed "
        "by a linear layer; use attention-relevance or legrad"
    )


def test_bfloat16_is_close_to_float32():
    """The projection runs outside autocast, on tokens that autocast has computed."""
    classifier = small(toys.token_net().float())
    exact, rounded = (
        xplain.attribute(classifier, X.float(), "grad-eclip", target=TARGETS, precision=precision).values.flatten()
        for precision in ("fp32", "bf16")
    )
    assert float(torch.cosine_similarity(exact, rounded, dim=0)) > 0.99
    assert not torch.equal(exact, rounded)
