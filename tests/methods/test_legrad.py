"""LeGrad: a closed form, literal versions on several libraries, text classes, attention pools, and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from tests.helpers.plain_attention import plain_attention
from tests.helpers.transformers import small_images, small_transformer
from tests.reference import legrad as literal
from xplain.core.errors import UsageError
from xplain.data.preprocessing import Preprocessing
from xplain.models.outputs import OutputKind
from xplain.models.zero_shot import ClassTexts, ImageTextClassifier, TextHead
from xplain.oracle import Oracle
from xplain.oracle.block_scores import differentiate_block_scores

X = toys.images(2)
TARGETS = [1, 3]
ALTERNATIVES = "use attention-relevance, attention-rollout or grad-cam"


def small(model: nn.Module) -> xplain.Classifier:
    return toys.classifier(model, preprocessing=Preprocessing(size=tuple(X.shape[-2:])))


def explain(model: nn.Module, method: str = "legrad", images: Tensor = X, **options) -> Tensor:
    return xplain.attribute(small(model), images, method, target=TARGETS[: len(images)], **options).values


def upsampled(patches: Tensor, height: int, width: int, side: tuple[int, int]) -> Tensor:
    return F.interpolate(patches.reshape(1, 1, height, width), side, mode="bilinear", align_corners=False)[0]


class OneBlock(nn.Module):
    """The block x + Σ_h A_h V_h W_h on the patches, and a linear head on their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 2, stride=2, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.block = toys.Attend(8, 2, "fused")
        self.block.norm = nn.Identity()
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.conv2(self.conv1(x)).flatten(2).mT).mean(dim=1))


def test_one_block_has_a_closed_form():
    """E_k = (1 / (H N)) Σ_h max(c · W_h v_hk, 0): every query has the same gradient, 1 / N of that of the mean."""
    torch.manual_seed(0)
    net = OneBlock().double().eval()
    values = explain(net)
    tokens = net.conv2(net.conv1(X)).flatten(2).mT
    inner, count = net.block.inner, tokens.shape[1]
    v = F.linear(tokens, inner.in_proj_weight[16:], inner.in_proj_bias[16:]).unflatten(2, (2, 4))
    out = inner.out_proj.weight.unflatten(1, (2, 4))
    for i, y in enumerate(TARGETS):
        per_head = torch.einsum("o,ohd,nhd->hn", net.head.weight[y], out, v[i])
        toys.assert_same(values[i], upsampled(per_head.clamp(min=0).mean(dim=0) / count, 4, 5, (8, 10)))
    assert float(values.min()) >= 0
    assert float(values.std()) > 0.1 * float(values.mean()) > 0


def block_gradients(
    net: nn.Module, blocks: list[nn.Module], attentions: list[nn.Module], head, row: int, y: int
) -> list[Tensor]:
    """Return the gradients (heads, N, N) of the score of each block's tokens at its own weights, one backward pass per block."""
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, output: outputs.append(output)) for block in blocks]
    net(X[row : row + 1])
    for hook in hooks:
        hook.remove()
    pairs = zip(attentions, outputs, strict=True)
    return [torch.autograd.grad(head(tokens)[0, y], attention.weights)[0][0] for attention, tokens in pairs]


@pytest.mark.parametrize("layers", ["all", 1])
@pytest.mark.parametrize("pool", ["mean", "own"])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("kind", ["fused", "module", "softmax"])
def test_equals_literal_version(kind, average, pool, layers):
    values = explain(toys.token_net(kind=kind, average=average), pool=pool, layers=layers)
    plain = toys.token_net(kind="softmax", average=average)

    def head(tokens: Tensor) -> Tensor:
        if pool == "mean":
            return plain.head(tokens.mean(dim=1))
        return plain.head(tokens[:, 2:].mean(dim=1) if average else tokens[:, 0])

    for i, y in enumerate(TARGETS):
        gradients = block_gradients(plain, list(plain.blocks), list(plain.blocks), head, i, y)
        keys = literal.legrad(gradients if layers == "all" else gradients[-1:])
        toys.assert_same(values[i], upsampled(keys[2:], 4, 5, (8, 10)))


def test_score_of_contrast_is_the_difference():
    """The positive parts are taken of the difference of the gradients of target and contrast class."""
    values = explain(toys.token_net(), against=4, images=X[:1])
    plain = toys.token_net(kind="softmax")
    blocks = list(plain.blocks)
    target, contrast = (
        block_gradients(plain, blocks, blocks, lambda tokens: plain.head(tokens.mean(dim=1)), 0, y) for y in (1, 4)
    )
    keys = literal.legrad([a - b for a, b in zip(target, contrast, strict=True)])
    toys.assert_same(values[0], upsampled(keys[2:], 4, 5, (8, 10)))


def test_blocks_are_counted_once():
    """One forward and one backward pass serve all blocks, and a block gives the same map alone and among others."""
    oracle = Oracle(small(toys.token_net()))
    y = torch.tensor(TARGETS)
    both = differentiate_block_scores(oracle, X, y, "legrad")
    assert (oracle.cost.forwards, oracle.cost.backwards) == (2, 2)
    one = differentiate_block_scores(oracle, X, y, "legrad", last=1)
    assert both.blocks == ("blocks.0", "blocks.1")
    assert one.blocks == ("blocks.1",)
    toys.assert_same(one.keys[:, 0], both.keys[:, 1])
    assert both.keys.shape == (2, 2, 22)


READERS = {  # the blocks of a model, the number of tokens before the patches, and the head for the mean token
    "torchvision-vit": ("encoder.layers", 1, lambda net, z: net.heads(net.encoder.ln(z))),
    "timm-vit-qk-norm": ("blocks", 3, lambda net, z: net.head(net.norm(z))),
    "timm-deit": ("blocks", 2, lambda net, z: (net.head(net.norm(z)) + net.head_dist(net.norm(z))) / 2),
    "transformers-vit": ("inner.vit.layers", 1, lambda net, z: net.inner.classifier(net.inner.vit.layernorm(z))),
    "transformers-dino-v2": (
        "inner.dinov2.encoder.layer",
        1,
        lambda net, z: net.inner.classifier(net.inner.dinov2.layernorm(z).repeat(1, 2)),
    ),
    "transformers-clip": ("inner.vision_model.encoder.layers", 1, lambda net, z: net.inner.classifier(z)),
}


@pytest.mark.parametrize("name", READERS)
def test_libraries_equal_literal_version(name):
    classifier, x = small_transformer(name), small_images(1)
    blocks, prefix, head = READERS[name]
    values = xplain.attribute(classifier, x, "legrad", target=2).values
    assert 0 < float(values.min()) < float(values.max())
    net = classifier.model
    outputs: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
        for block in net.get_submodule(blocks).children()
    ]
    with torch.enable_grad(), plain_attention() as weights:
        net((x - classifier.mean) / classifier.std)
    for hook in hooks:
        hook.remove()
    gradients = [
        torch.autograd.grad(head(net, tokens.mean(dim=1))[0, 2], weight)[0][0]
        for weight, tokens in zip(weights, outputs, strict=True)
    ]
    toys.assert_same(values[0], upsampled(literal.legrad(gradients)[prefix:], 4, 4, (32, 32)), rtol=1e-9)


def text_classifier(net: nn.Module, texts: Tensor) -> xplain.Classifier:
    """Return a zero-shot classifier of the image tower ``net`` with the features (classes, K) of its texts."""

    class Tower(ImageTextClassifier):
        def __init__(self, head: TextHead) -> None:
            super().__init__(head)
            self.net = net

        def encode_images(self, pixels: Tensor) -> Tensor:
            return self.net(pixels)

    names = ClassTexts(tuple(map(str, range(len(texts)))), (), ())
    head = TextHead(texts, torch.tensor(7.0), None, OutputKind("softmax"), names)
    return small(Tower(head).double().eval())


def test_text_class_is_the_scaled_cosine():
    """The score of a block is 7 cos(projection of the mean token, text); the order of the texts does not matter."""
    texts = F.normalize(torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), dim=1)
    values = xplain.attribute(text_classifier(toys.token_net(), texts), X[:1], "legrad", target=2).values
    plain = toys.token_net(kind="softmax")
    blocks = list(plain.blocks)

    def cosines(tokens: Tensor) -> Tensor:
        return 7 * F.normalize(plain.head(tokens.mean(dim=1)), dim=1) @ texts.T

    keys = literal.legrad(block_gradients(plain, blocks, blocks, cosines, 0, 2))
    toys.assert_same(values[0], upsampled(keys[2:], 4, 5, (8, 10)))
    other = xplain.attribute(text_classifier(toys.token_net(), texts.flip(0)), X[:1], "legrad", target=0).values
    toys.assert_same(other, values)


def test_pooling_attention_is_differentiated():
    """SigLIP: the scores of the blocks are those of norm and pooler for their tokens, and the gradients those at the pooler's weights."""
    classifier, x = small_transformer("timm-siglip"), small_images(1)
    values = xplain.attribute(classifier, x, "legrad", target=2).values
    toys.assert_same(xplain.attribute(classifier, x, "legrad", target=2, pool="own").values, values)
    net = classifier.model
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, output: outputs.append(output)) for block in net.blocks]
    net((x - classifier.mean) / classifier.std)
    for hook in hooks:
        hook.remove()
    keys = []
    for tokens in outputs:
        with torch.enable_grad(), plain_attention() as weights:
            logits = net.head(net.fc_norm(net.attn_pool(net.norm(tokens.detach().requires_grad_()))))
        (gradient,) = torch.autograd.grad(logits[0, 2], weights[0])
        assert gradient.shape == (1, 3, 1, 16)
        keys.append(literal.positive_key_means(gradient[0]))
    toys.assert_same(values[0], upsampled((keys[0] + keys[1]) / 2, 4, 4, (32, 32)), rtol=1e-9)


def refusal(net: nn.Module, **options) -> str:
    with pytest.raises(UsageError) as error:
        explain(net, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


class OwnHead(nn.Module):
    """A network of tokens with another head."""

    def __init__(self, head) -> None:
        super().__init__()
        self.net, self.head = toys.token_net(), head

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        patches = net.conv2(net.pool(net.act1(net.norm1(net.conv1(x))))).flatten(2).mT
        first = net.blocks[0](torch.cat([net.prefix.expand(len(x), -1, -1), patches], dim=1))
        return self.head(net, x, first, net.blocks[1](first))


WEIGHT = torch.linspace(-1, 1, 22 * 12 * 5, dtype=torch.float64).reshape(5, 264)
FLAT = OwnHead(lambda net, x, first, last: F.linear(last.flatten(1), WEIGHT))


def test_heads_that_cannot_be_called_separately_are_refused():
    two_layers = OwnHead(lambda net, x, first, last: net.head((first + last).mean(dim=1)))
    reason = "the logits do not depend on those of net.blocks.1 alone"
    head = "legrad requires a head that reads the tokens of the last block only, but "
    assert refusal(two_layers) == f"{head}{reason}; {ALTERNATIVES}"
    pixels = OwnHead(lambda net, x, first, last: net.head(last.mean(dim=1)) + x.mean())
    assert refusal(pixels) == f"{head}{reason}; {ALTERNATIVES}"
    fixed_rows = OwnHead(lambda net, x, first, last: net.head(last.view(len(x), 22, 12).mean(dim=1)))
    assert refusal(fixed_rows).startswith(
        "legrad cannot call the head of the model on the tokens of net.blocks.1: shape '[1, 22, 12]' is invalid"
    )
    assert refusal(FLAT) == (
        "legrad with pool=mean requires a head that pools the tokens, but the logits depend on the order of the patches after "
        "net.blocks.1; use pool=own, or attention-relevance, attention-rollout or grad-cam"
    )
    assert float(explain(FLAT, pool="own").max()) > 0


def test_attention_without_a_block_is_refused():
    class Loose(toys.TokenNet):
        def forward(self, x: Tensor) -> Tensor:
            tokens = (
                self.conv2(self.pool(self.act1(self.norm1(self.conv1(x))))).flatten(2).mT[:, :, None].transpose(1, 2)
            )
            for _ in range(2):
                tokens = tokens + F.scaled_dot_product_attention(tokens, tokens, tokens)
            return self.head(tokens[:, 0].mean(dim=1))

    torch.manual_seed(0)
    text = refusal(Loose().double().eval(), layout="4x5")
    assert text == (
        "legrad requires a module for each transformer block that takes tokens and returns them, but there is none around the attention "
        f"of the model; {ALTERNATIVES}"
    )


def test_number_of_blocks_is_checked():
    net = toys.token_net()
    assert refusal(net, layers=3) == "legrad: layers=3 is more than the 2 blocks of the model; use layers=all or fewer"
    for layers in ("0", "last", "1.5"):
        text = refusal(net, layers=layers)
        assert text == f"legrad: invalid value layers={layers}; use all or a number of blocks, from the last one back"


def test_blocks_of_sequence_first_tokens():
    """Torch's encoder takes (N, rows, K); its layout is stated, because its order is not known."""
    classifier, x = small_transformer("sequence-first"), small_images(2)
    values = xplain.attribute(classifier, x, "legrad", target=2, layout="4x4").values
    single = xplain.attribute(classifier, x[1:], "legrad", target=2, layout="4x4").values
    toys.assert_same(values[1:], single)
    net = classifier.model
    outputs: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, output: outputs.append(output)) for layer in net.encoder.layers]
    with torch.enable_grad(), plain_attention() as weights:
        net(((x - classifier.mean) / classifier.std)[:1])
    for hook in hooks:
        hook.remove()
    gradients = [
        torch.autograd.grad(net.head(tokens.mean(dim=0))[0, 2], weight)[0][0]
        for weight, tokens in zip(weights, outputs, strict=True)
    ]
    toys.assert_same(values[0], upsampled(literal.legrad(gradients), 4, 4, (32, 32)), rtol=1e-9)
