"""Layers and attention of networks with unusual layouts: the right positions, or a refusal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from tests.helpers.token_networks import changed_cell, ordered_tokens, seeded_classifier
from xplain.core.errors import InputError, UsageError
from xplain.core.types import Cost
from xplain.data.preprocessing import Preprocessing
from xplain.oracle import Oracle
from xplain.oracle.attention import probe_attention

Y = torch.tensor([1])
GRID = (6, 8)


def image(classifier: xplain.Classifier, seed: int = 1) -> Tensor:
    return torch.rand(1, 3, *classifier.size, generator=torch.Generator().manual_seed(seed))


def activations(classifier: xplain.Classifier, layer: str = "auto", layout: str = "auto"):
    return lambda x: Oracle(classifier).probe(x, Y, layer, layout, differentiate=False).activations


def tokens_of(classifier: xplain.Classifier, layout: str = "auto"):
    def reduce(weights: Tensor, _: Tensor | None) -> Tensor:
        return weights.mean(dim=1)

    return probe_attention(
        Oracle(classifier), image(classifier), Y, "rollout", reduce, layout=layout, differentiate=False
    ).tokens


@pytest.mark.parametrize(
    ("order", "options", "layer", "text"),
    [
        ("rows", {}, "norm", "6x8"),
        ("columns", {}, "norm", "6x8 column by column"),
        ("rows", {"before": 1}, "second.norm", "6x8+1"),
        ("columns", {"before": 5}, "second.norm", "6x8+5 column by column"),
        ("rows", {"after": 1}, "second.norm", "6x8 and 1 at the end"),
    ],
)
def test_tokens_are_placed(order, options, layer, text):
    classifier = ordered_tokens((48, 64), order, **options)
    assert Oracle(classifier).probe(image(classifier), Y).layer == layer
    for row, column in ((0, 7), (4, 1)):
        assert changed_cell(classifier, activations(classifier), row, column) == (row, column)
    tokens = tokens_of(classifier)
    assert str(tokens.layout) == text
    assert tokens.readout.nonzero().flatten().tolist() == {"norm": [*range(48)]}.get(
        layer, [48 if "end" in text else 0]
    )


@pytest.mark.parametrize("order", ["random", "random in the middle"])
@pytest.mark.parametrize("before", [0, 1])
def test_random_order_is_refused(order, before):
    classifier = ordered_tokens((48, 64), order, before=before)
    count = 48 + before
    with pytest.raises(InputError) as error:
        Oracle(classifier).probe(image(classifier), Y)
    assert f"its {count} tokens follow no known order; choose another layer with --layer NAME" in str(error.value)
    with pytest.raises(UsageError, match=f"but the {count} tokens of [a-z.]+ follow no known order; use grad-cam"):
        tokens_of(classifier)


def test_layer_before_the_permutation_can_be_named():
    classifier = ordered_tokens((48, 64), "random")
    assert changed_cell(classifier, activations(classifier, "patch"), 4, 1) == (4, 1)
    with pytest.raises(UsageError) as error:
        activations(classifier, "norm")(image(classifier))
    assert str(error.value) == (
        "the positions of layer 'norm' in the image are not known: its 48 tokens follow no known order; choose another layer with "
        "--layer NAME, or state the layout with --layout HxW+PREFIX"
    )


def test_stated_layout_needs_no_evidence():
    classifier = ordered_tokens((48, 64), "random", before=1)
    oracle = Oracle(classifier)
    output = oracle.probe(image(classifier), Y, "norm", "6x8+1", differentiate=False).activations
    assert oracle.cost == Cost(forwards=1, checks=1)
    assert torch.equal(
        output, activations(classifier, "norm", "8x6+1")(image(classifier)).flatten(2).unflatten(2, GRID)
    )
    assert str(tokens_of(classifier, "6x8+1").layout) == "6x8+1"
    with pytest.raises(UsageError, match=r"the output \(1, 49, 12\) of layer 'norm' does not have the layout 6x8"):
        activations(classifier, "norm", "6x8")(image(classifier))
    with pytest.raises(UsageError, match="the attention of the model is over 49 tokens, not over 7x8"):
        tokens_of(classifier, "7x8")
    with pytest.raises(InputError, match="no layer with the layout 5x5 was found"):
        activations(classifier, "auto", "5x5")(image(classifier))


def test_evidence_is_counted_and_cached():
    classifier = ordered_tokens()
    oracle = Oracle(classifier)
    oracle.probe(image(classifier), Y)
    # the trace, the stimuli, and a row for each of the candidates: both blocks with their norms, and the last norm
    assert oracle.cost == Cost(forwards=1, backwards=1, checks=1 + 32 + 6)
    oracle.probe(image(classifier), Y)
    assert oracle.cost == Cost(forwards=2, backwards=2, checks=39)


class ChannelsEqualHeight(nn.Module):
    """A convolution with as many channels as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, stride=(1, 2), padding=1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize("layer", ["auto", "conv"])
def test_channels_that_equal_the_height_stay_first(layer):
    classifier = seeded_classifier(ChannelsEqualHeight, (16, 16))
    oracle, x = Oracle(classifier), image(classifier)
    result = oracle.probe(x, Y, layer)
    assert torch.allclose(result.activations, classifier.model.conv(x), atol=1e-6)
    assert result.activations.shape == (1, 16, 16, 8)
    assert oracle.cost == Cost(forwards=1, backwards=1, checks=1)


class ResidualConvolutions(nn.Module):
    """A container whose output no module computes, with as many channels as rows and columns."""

    class Block(nn.Module):
        def __init__(self, last: bool) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)
            self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)
            self.last = last

        def forward(self, x: Tensor) -> Tensor:
            y = self.mix(self.norm(self.conv(x).permute(0, 2, 3, 1)))
            return x.permute(0, 2, 3, 1) + y if self.last else x + y.permute(0, 3, 1, 2)

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, 8)
        self.block = self.Block(last)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean(dim=(1, 2) if self.block.last else (2, 3)))


@pytest.mark.parametrize("last", [False, True])
def test_evidence_decides_where_types_contradict(last):
    """All sides of the output are 8, and its block has modules of both layouts."""
    classifier = seeded_classifier(lambda: ResidualConvolutions(last), (64, 64))
    assert Oracle(classifier).probe(image(classifier), Y).layer == "block"
    for row, column in ((1, 6), (5, 2)):
        assert changed_cell(classifier, activations(classifier), row, column) == (row, column)


class WindowedNet(nn.Module):
    """Blocks whose norm sees windows as rows of the batch, and a table of position biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.window_norm = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8)
        self.bias, self.norm, self.head = nn.Linear(2, 16), nn.LayerNorm(8), nn.Linear(8, 4)
        self.register_buffer("offsets", torch.randn(1, 8, 8, 2))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stem(x).permute(0, 2, 3, 1)
        bias = self.bias(self.offsets)
        windows = maps.unflatten(1, (2, 4)).unflatten(3, (2, 4)).transpose(2, 3).flatten(0, 2).flatten(1, 2)
        windows = self.window_norm(windows) + bias.mean()
        maps = windows.unflatten(1, (4, 4)).unflatten(0, (-1, 2, 2)).transpose(2, 3).flatten(1, 2).flatten(2, 3)
        return self.head(self.norm(maps).mean(dim=(1, 2)))


def test_windows_and_tables_are_no_maps():
    classifier = seeded_classifier(WindowedNet, (64, 64))
    assert Oracle(classifier).probe(image(classifier), Y).layer == "norm"
    assert changed_cell(classifier, activations(classifier), 1, 6) == (1, 6)
    with pytest.raises(UsageError) as error:
        activations(classifier, "window_norm")(image(classifier))
    message = "layer 'window_norm' returns 4 rows per image, as attention in windows does; use the block around it"
    assert str(error.value) == message
    with pytest.raises(UsageError, match="layer 'bias' does not depend on the image; use another layer"):
        activations(classifier, "bias")(image(classifier))


class PooledTokens(nn.Module):
    """Tokens that an attention with one query of its own reads out, or the mean of which is read."""

    def __init__(self, *, is_read: bool, kind: str = "module") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 8, 8)
        self.block = toys.Attend(12, 3, "fused")
        self.query = nn.Parameter(torch.randn(1, 1, 12))
        self.pool = nn.MultiheadAttention(12, 3, batch_first=True)
        self.head = nn.Linear(12, 4)
        self.is_read = is_read

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.block(self.conv(x).flatten(2).mT)
        pooled = self.pool(self.query.expand(len(x), -1, -1), tokens, tokens)[0][:, 0]
        return self.head(pooled if self.is_read else tokens.mean(dim=1))


def test_pooling_attention_reads_out_the_tokens():
    classifier = seeded_classifier(lambda: PooledTokens(is_read=True), (48, 64))
    x, network = image(classifier), classifier.model
    assert tokens_of(classifier).is_pooled
    tokens = network.conv(x).flatten(2).mT
    (weights,) = [attention(network.block, tokens, tokens)]
    pooling = network.pool(network.query, network.block(tokens), network.block(tokens))[1][0]
    expected = pooling @ (weights + torch.eye(48)) / 2
    values = xplain.attribute(classifier, x, "attention-rollout", target=1).values
    upsampled = F.interpolate(expected.reshape(1, 1, *GRID), (48, 64), mode="bilinear", align_corners=False)
    assert (values - upsampled).abs().max() < 1e-6
    assert values.std() > 1e-4


def attention(block: nn.Module, tokens: Tensor, _: Tensor) -> Tensor:
    """Return the attention weights (N, N) of a block of ``toys``, averaged over heads."""
    normed = block.norm(tokens)
    return block.inner(normed, normed, normed, average_attn_weights=True)[1][0]


def test_unread_pooling_attention_is_ignored():
    classifier = seeded_classifier(lambda: PooledTokens(is_read=False), (48, 64))
    tokens = tokens_of(classifier)
    assert (tokens.is_pooled, tokens.layers, int(tokens.readout.sum())) == (False, 1, 48)


class ReducedKeys(nn.Module):
    """A first block whose tokens attend to fewer keys, as in PVT, and a last one of plain attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last, self.head = nn.Conv2d(3, 12, 8, 8), toys.Attend(12, 3, "softmax"), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).mT
        heads = tokens.unflatten(2, (3, 4)).transpose(1, 2)
        weights = (heads @ heads[:, :, ::4].mT).softmax(dim=-1)
        tokens = tokens + (weights @ heads[:, :, ::4]).transpose(1, 2).flatten(2)
        return self.head(self.last(tokens).mean(dim=1))


@pytest.mark.parametrize("method", ["attention-rollout", "attention-relevance"])
def test_attention_to_fewer_keys_is_refused(method):
    classifier = seeded_classifier(ReducedKeys, (48, 64))
    with pytest.raises(UsageError, match="attention weights of the model have shape 1 x 3 x 48 x 12 for 1 image"):
        xplain.attribute(classifier, image(classifier), method, target=1)


@pytest.mark.parametrize(
    "method",
    [
        "grad-cam",
        "grad-cam-plus-plus",
        "layer-cam",
        "hires-cam",
        "xgrad-cam",
        "eigen-cam",
        "guided-grad-cam",
        "score-cam",
        "attention-rollout",
        "attention-relevance",
    ],
)
def test_methods_take_a_layout(method):
    classifier = ordered_tokens((48, 64), "random")
    if method == "guided-grad-cam":  # needs rules for all layers
        classifier = toys.classifier(toys.small_net(), preprocessing=Preprocessing(size=(8, 10)))
        x, layout = toys.images(1), "channels-first"
    else:
        x, layout = image(classifier), "6x8"
    stated = xplain.attribute(classifier, x, method, target=1, layout=layout)
    assert stated.values.isfinite().all()
    with pytest.raises(UsageError, match=f"{method}.*layout.*HxW"):
        xplain.attribute(classifier, x, method, target=1, layout="14")
