"""The oracle: scores, gradients, points in blocks, counted rows, and precision."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.oracle.helpers import KINDS, SCORE_FORMULAS, is_close, small_classifier
from xplain.core.errors import UsageError
from xplain.core.types import Cost
from xplain.data.preprocessing import Preprocessing
from xplain.models.optimize import inference_copy
from xplain.oracle import Oracle
from xplain.oracle.targets import compute_scores


def test_scores_are_those_of_logits():
    model, x, y = small_classifier(), toys.images(3), torch.tensor([4, 0, 2])
    for kind in KINDS:
        expected = compute_scores(model(x).detach(), y, kind)
        assert is_close(Oracle(model, score=kind).scores(x, y), expected)


def test_unknown_score_is_refused():
    with pytest.raises(UsageError, match="'logits'"):
        xplain.attribute(small_classifier(), toys.images(), "saliency", score="logits")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("against", [None, torch.tensor([[1, 2], [3, 1], [0, 4]])])
def test_score_change_is_from_start_to_image(kind, against):
    model, x, y = small_classifier(), toys.images(3), torch.tensor([4, 0, 2])
    start = toys.images(3, seed=7)
    oracle = Oracle(model, score=kind, against=against, images=3)
    before, after = (compute_scores(model(images).detach(), y, kind, against) for images in (start, x))
    assert is_close(oracle.score_change(start, x, y), after - before)
    assert oracle.cost == Cost(checks=6)
    assert float(oracle.image_rows.sum()) == 0


def autograd(model: xplain.Classifier, x: Tensor, function) -> Tensor:
    """Return gradients of ``function`` (logits of one image, index of the image) -> scalar, image by image."""
    gradients = []
    for index, image in enumerate(x):
        image = image[None].clone().requires_grad_()
        scalar = function(model(image)[0], index)
        gradients.append(torch.autograd.grad(scalar, image)[0])
    return torch.cat(gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_autograd(kind):
    model, x, y = small_classifier(), toys.images(4), torch.tensor([4, 0, 2, 2])
    formula = SCORE_FORMULAS[kind]
    result = Oracle(model, score=kind).gradients(x, y)
    expected = autograd(model, x, lambda z, i: formula(z, y[i]))
    assert expected.abs().max() > 1e-4
    assert (result.values - expected).abs().max() < 1e-12 * expected.abs().max()
    assert is_close(result.scores, torch.stack([formula(model(x)[i], y[i]) for i in range(4)]).detach())
    assert result.predicted.tolist() == model(x).argmax(dim=1).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_several_classes_take_one_forward(kind):
    model, x = small_classifier(), toys.images(3)
    y = torch.tensor([[4, 0, 1], [0, 2, 2], [3, 1, 0]])
    oracle = Oracle(model, score=kind)
    result = oracle.gradients(x, y)
    assert result.values.shape == (3, 3, 3, 8, 10)
    for k in range(3):
        expected = autograd(model, x, lambda z, i, k=k: SCORE_FORMULAS[kind](z, y[i, k]))
        assert (result.values[:, k] - expected).abs().max() < 1e-12 * expected.abs().max()
        assert is_close(result.scores[:, k], Oracle(model, score=kind).scores(x, y[:, k]))
    assert (oracle.cost.forwards, oracle.cost.backwards) == (3, 9)


@pytest.mark.parametrize("kind", ["logit", "prob", "log-prob"])
def test_gradients_subtract_mean_of_contrasts(kind):
    model, x = small_classifier(), toys.images(2)
    y, against = torch.tensor([4, 0]), torch.tensor([[0, 1], [2, 3]])
    result = Oracle(model, score=kind, against=against).gradients(x, y)
    formula = SCORE_FORMULAS[kind]
    expected = autograd(
        model, x, lambda z, i: formula(z, y[i]) - (formula(z, against[i, 0]) + formula(z, against[i, 1])) / 2
    )
    assert (result.values - expected).abs().max() < 1e-12 * expected.abs().max()


def test_rows_use_contrasts_of_their_image():
    model, x = small_classifier(), toys.images(2)
    against = torch.tensor([[0], [1]])
    image = torch.tensor([1, 0, 1])
    oracle = Oracle(model, against=against)
    rows, y = x[image], torch.tensor([3, 4, 2])
    expected = autograd(model, rows, lambda z, i: z[y[i]] - z[against[image[i], 0]])
    assert is_close(oracle.gradients(rows, y, image).values, expected)
    z = model(rows).detach()
    assert is_close(oracle.scores(rows, y, image), z[range(3), y] - z[range(3), against[image, 0]])


def test_gradients_work_under_no_grad():
    model, x, y = small_classifier(), toys.images(2), torch.tensor([0, 1])
    expected = Oracle(model).gradients(x, y).values
    with torch.no_grad():
        result = Oracle(model).gradients(x, y)
    assert torch.equal(result.values, expected)
    assert not result.values.requires_grad
    assert not result.scores.requires_grad


def test_gradients_work_after_inference_mode():
    model, x, y = small_classifier(), toys.images(2), torch.tensor([0, 1])
    with torch.inference_mode():
        Oracle(model).logits(x)
    expected = Oracle(small_classifier()).gradients(x, y).values
    assert torch.equal(Oracle(model).gradients(x, y).values, expected)


def test_images_that_require_grad_get_none():
    x = toys.images(2).requires_grad_()
    result = Oracle(small_classifier()).gradients(x, torch.tensor([0, 1]))
    assert not result.values.requires_grad
    assert x.grad is None


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 100, None])
@pytest.mark.parametrize(("images", "count"), [(1, 1), (3, 4), (5, 2), (2, 9)])
def test_blocks_give_scores_and_gradients_per_point(rows, images, count):
    model = small_classifier()
    x, y, against = toys.images(images), torch.arange(images) % 3, (torch.arange(images)[:, None] + 1) % 3
    scales = torch.linspace(0.2, 1, count, dtype=torch.float64)
    oracle = Oracle(model, score="prob", against=against, batch_size=rows)
    scores = torch.full((images, count), torch.nan, dtype=torch.float64)
    gradients = torch.full((images, count, 3, 8, 10), torch.nan, dtype=torch.float64)
    for block in oracle.blocks(x, count):
        points = x[block.images, None] * scales[block.points][None, :, None, None, None]
        scores[block.images, block.points] = oracle.block_scores(block, points, y)
        gradients[block.images, block.points] = oracle.block_gradients(block, points, y)
    probability = SCORE_FORMULAS["prob"]
    for i, k in product(range(images), range(count)):
        point = (x[i : i + 1] * scales[k]).requires_grad_()
        z = model(point)[0]
        score = probability(z, y[i]) - probability(z, against[i, 0])
        (gradient,) = torch.autograd.grad(score, point)
        assert abs(scores[i, k] - score) < 1e-13
        assert (gradients[i, k] - gradient[0]).abs().max() < 1e-13
    assert (oracle.cost.forwards, oracle.cost.backwards) == (2 * images * count, images * count)


def test_block_scores_take_kind():
    model, x, y = small_classifier(), toys.images(2), torch.tensor([0, 1])
    oracle = Oracle(model)
    (block,) = oracle.blocks(x, 1)
    scores = oracle.block_scores(block, x[:, None], y, kind="prob")
    assert is_close(scores[:, 0], Oracle(model, score="prob").scores(x, y))


def test_block_gradients_take_image_indices():
    model, x, y = small_classifier(), toys.images(3), torch.tensor([0, 1, 2])
    image = torch.tensor([1, 1, 0])
    oracle = Oracle(model, images=2)
    (block,) = oracle.blocks(x, 1)
    gradients = oracle.block_gradients(block, x[:, None], y, image)
    assert is_close(gradients[:, 0], Oracle(model).gradients(x, y).values)
    assert oracle.image_rows.tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize("rows", [1, 3, 7, None])
def test_results_do_not_depend_on_batch_size(rows):
    model, x, y = small_classifier(), toys.images(8), torch.arange(8) % 5
    expected, actual = Oracle(model, batch_size=8), Oracle(model, batch_size=rows)
    assert is_close(actual.logits(x), expected.logits(x), 1e-14)
    assert is_close(actual.gradients(x, y).values, expected.gradients(x, y).values, 1e-14)
    assert is_close(actual.probe(x, y, "conv2").gradients, expected.probe(x, y, "conv2").gradients, 1e-14)


def test_cost_counts_rows_by_purpose():
    x, y = toys.images(5), torch.tensor([0, 1, 2, 3, 4])
    oracle = Oracle(small_classifier(), batch_size=2)
    expected = Cost()
    assert oracle.cost == expected
    for call, cost in (
        (lambda: oracle.logits(x), Cost(forwards=5)),
        (lambda: oracle.logits(x, check=True), Cost(checks=5)),
        (lambda: oracle.scores(x, y), Cost(forwards=5)),
        (lambda: oracle.scores(x[:2], y[:2], check=True), Cost(checks=2)),
        (lambda: oracle.gradients(x, y), Cost(forwards=5, backwards=5)),
        (lambda: oracle.gradients(x, torch.stack([y, y, y], dim=1)), Cost(forwards=5, backwards=15)),
        (lambda: oracle.probe(x, y, "conv1"), Cost(forwards=5, backwards=5, checks=1)),
    ):
        call()
        expected = expected + cost
        assert oracle.cost == expected


def test_cost_counts_all_rows_of_model():
    model = small_classifier()
    rows = toys.watch(model)
    x, y = toys.images(5), torch.tensor([0, 1, 2, 3, 4])
    oracle = Oracle(model, batch_size=2)
    oracle.logits(x)
    oracle.scores(x, y, check=True)
    oracle.gradients(x, y[:, None])
    oracle.probe(x, y, "auto")
    assert max(rows) == 2
    assert sum(rows) == oracle.cost.forwards + oracle.cost.checks


def test_image_rows_count_per_image():
    x, y = toys.images(3), torch.tensor([0, 1, 2])
    oracle = Oracle(small_classifier(), images=3, batch_size=2)
    oracle.gradients(x, y)
    oracle.logits(x)
    assert oracle.image_rows.tolist() == [[2, 1]] * 3
    image = torch.tensor([0, 0, 2])
    oracle.gradients(x[image], torch.tensor([[0, 1]] * 3), image)
    oracle.scores(x, y, check=True)
    assert oracle.image_rows.tolist() == [[4, 5], [2, 1], [3, 3]]


def test_on_rows_reports_each_call():
    reported: list[int] = []
    x, y = toys.images(5), torch.tensor([0, 1, 2, 3, 4])
    oracle = Oracle(small_classifier(), batch_size=2, on_rows=reported.append)
    oracle.logits(x)
    assert reported == [2, 2, 1]
    reported.clear()
    oracle.gradients(x, y)
    assert reported == [2, 2, 1]
    reported.clear()
    oracle.gradients(x[:2], y[:2, None].expand(2, 3))
    assert reported == [2]


# ------------------------------------------------------------------------------------------------- probe


def test_a_probe_reads_a_layer_and_the_scores_gradient_there():
    net = toys.small_net()
    x, y = toys.images(2), torch.tensor([3, 1])
    found = Oracle(toys.classifier(net), score="prob").probe(x, y, "conv2")
    before = net.pool(net.act1(net.norm1(net.conv1(x))))
    layer = net.conv2(before).detach().requires_grad_()
    probability = net.head(net.act2(layer).mean(dim=(2, 3))).softmax(dim=1)
    (expected,) = torch.autograd.grad(probability[[0, 1], y].sum(), layer)
    assert close(found.activations, layer.detach())
    assert (found.gradients - expected).abs().max() < 1e-15
    assert found.layer == "conv2"


def test_a_probe_finds_the_last_spatial_layer_by_itself():
    found = Oracle(small()).probe(toys.images(2), torch.tensor([3, 1]))
    assert found.layer == "act2"
    assert found.activations.min() == 0


def test_a_probe_is_not_taken_from_folded_norms():
    net = toys.small_net()
    x = toys.images(2)
    found = Oracle(toys.classifier(net)).probe(x, torch.tensor([3, 1]), "norm1")
    assert close(found.activations, net.norm1(net.conv1(x)).detach())
    assert not close(net.conv1(x), net.norm1(net.conv1(x)))
    assert close(Oracle(toys.classifier(net)).probe(x, torch.tensor([3, 1]), "conv1").activations, net.conv1(x))


def test_a_probe_takes_rivals_into_account():
    x, y, against = toys.images(2), torch.tensor([3, 1]), torch.tensor([[0], [2]])
    model = small()
    alone = [Oracle(model).probe(x, each, "conv2").gradients for each in (y, against[:, 0])]
    found = Oracle(model, against=against).probe(x, y, "conv2").gradients
    assert close(found, alone[0] - alone[1], 1e-15)


class Twice(nn.Module):
    """A layer that runs two times, and one whose output is changed in place afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1).double()
        self.other = nn.Conv2d(3, 3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.other(self.conv(self.conv(x)))
        x += 1
        return (x**2).mean(dim=(2, 3))


def test_a_layer_that_runs_twice_is_read_at_its_last_run():
    net, x, y = seeded(Twice), toys.images(2), torch.tensor([0, 1])
    found = Oracle(toys.classifier(net)).probe(x, y, "conv")
    layer = net.conv(net.conv(x)).detach().requires_grad_()
    (expected,) = torch.autograd.grad(((net.other(layer) + 1) ** 2).mean(dim=(2, 3))[[0, 1], y].sum(), layer)
    assert close(found.activations, layer.detach())
    assert (found.gradients - expected).abs().max() < 1e-15


def test_a_layers_output_is_read_before_anything_changes_it_in_place():
    net, x, y = seeded(Twice), toys.images(2), torch.tensor([0, 1])
    found = Oracle(toys.classifier(net)).probe(x, y, "other")
    assert close(found.activations, net.other(net.conv(net.conv(x))).detach())


def test_an_unknown_layer_names_its_relatives():
    for layer, way_out in (("conv3", "did you mean 'conv"), ("zzzzzz", "use the name of a module")):
        with pytest.raises(UsageError) as error:
            Oracle(small()).probe(toys.images(2), torch.tensor([3, 1]), layer)
        assert str(error.value).startswith(f"the model has no layer {layer!r}; {way_out}")


def test_the_model_itself_is_no_layer():
    with pytest.raises(UsageError) as error:
        Oracle(small()).probe(toys.images(2), torch.tensor([3, 1]), "")
    assert str(error.value) == "the model has no layer ''; use the name of a module"


def test_a_layer_without_height_and_width_is_refused():
    with pytest.raises(UsageError, match="layer 'head' has no output with height and width"):
        Oracle(small()).probe(toys.images(2), torch.tensor([3, 1]), "head")


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = toys.small_net()
        self.idle = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_a_layer_that_never_runs_is_refused():
    with pytest.raises(UsageError, match="layer 'idle'"):
        Oracle(toys.classifier(seeded(Unused))).probe(toys.images(2), torch.tensor([3, 1]), "idle")


class Apart(nn.Module):
    """A spatial layer on which the logits do not depend."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toys.small_net()
        self.apart = nn.Conv2d(3, 3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        self.apart(x)
        return self.net(x)


def test_a_layer_on_which_the_score_does_not_depend_is_refused():
    with pytest.raises(UsageError, match="'apart'"):
        Oracle(toys.classifier(seeded(Apart))).probe(toys.images(2), torch.tensor([3, 1]), "apart")


def hooks(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


def test_hooks_are_removed_after_a_probe_and_after_its_errors():
    model = small()
    oracle = Oracle(model)
    x, y = toys.images(2), torch.tensor([3, 1])
    oracle.probe(x, y)
    oracle.probe(x, y, "conv2")
    with pytest.raises(UsageError):
        oracle.probe(x, y, "head")
    with pytest.raises(RuntimeError, match="index 99"):
        oracle.probe(x, torch.tensor([3, 99]), "conv2")
    for fold in (True, False):
        assert hooks(inference_copy(model, fold=fold)) == 0
    assert hooks(model) == 0


def test_hooks_are_removed_after_the_model_raised():
    limited_rows = {"limit": 100}

    class Raising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toys.small_net()

        def forward(self, x: Tensor) -> Tensor:
            out = self.net(x)
            if len(x) > limited_rows["limit"]:
                raise KeyError("in the user's model")
            return out

    model = toys.classifier(Raising())
    oracle = Oracle(model)
    x, y = toys.images(3), torch.tensor([3, 1, 0])
    oracle.probe(x, y, "net.conv2")
    limited_rows["limit"] = 2
    with pytest.raises(KeyError, match="in the user's model"):
        oracle.probe(x, y, "net.conv2")
    assert hooks(inference_copy(model, fold=False)) == 0
    assert oracle.probe(x[:2], y[:2], "net.conv2").activations.shape == (2, 12, 4, 5)


def test_a_probe_without_a_gradient_takes_no_backward():
    model, x, y = small(), toys.images(5), torch.tensor([0, 1, 2, 3, 4])
    oracle = Oracle(model, images=5, batch_size=2)
    found = oracle.probe(x, y, "conv2", differentiate=False)
    assert found.gradients.shape == (5, 0, 4, 5)
    assert torch.equal(found.activations, Oracle(model).probe(x, y, "conv2").activations)
    assert oracle.cost == Cost(forwards=5, checks=1)
    assert oracle.image_rows.tolist() == [[1, 0]] * 5
    oracle.probe(x, y, "conv2")
    assert oracle.image_rows.tolist() == [[2, 1]] * 5


SIZES = [(8, 10), (8, 6), (6, 10)]


def tokens(model: nn.Module) -> xplain.Classifier:
    """A classifier of small images, as attention takes memory by the square of their tokens."""
    return toys.classifier(model, preprocessing=Preprocessing(size=SIZES[0]))


def test_tokens_are_laid_out_by_the_size_of_the_images():
    oracle = Oracle(tokens(toys.token_net()))
    for (height, width), layer in product(SIZES, ("blocks.1", "auto")):
        found = oracle.probe(toys.images(2, height, width), torch.tensor([0, 1]), layer)
        assert found.activations.shape == (2, 12, height // 2, width // 2)


# ------------------------------------------------------------------------------------------------- attention


def mean(weights: Tensor, gradient: Tensor | None) -> Tensor:
    return weights.mean(dim=1) if gradient is None else gradient.sum(dim=1)


@pytest.mark.parametrize("differentiate", [False, True])
def test_attention_counts_every_row(differentiate):
    model, x, y = tokens(toys.token_net()), toys.images(3), torch.tensor([0, 1, 2])
    rows, ticks = toys.watch(model), list[int]()
    oracle = Oracle(model, images=3, batch_size=2, tick=ticks.append)
    inference_copy(model)
    rows.clear()
    probe_attention(oracle, x, y, "toy", mean, differentiate=differentiate)
    assert rows == [1, 1, 3, 2, 1]  # plain and watched; the patches and two more that may be read; the images
    assert ticks == [5, 2, 1]
    assert oracle.cost == Cost(forwards=3, backwards=3 * differentiate, checks=5)
    assert oracle.image_rows.tolist() == [[1, differentiate]] * 3
    probe_attention(oracle, x, y, "toy", mean, differentiate=differentiate)
    assert rows[5:] == [2, 1]  # the tokens are known


def test_patches_are_found_for_each_size_of_the_images():
    oracle = Oracle(tokens(toys.token_net()))
    for height, width in SIZES:
        found = probe_attention(
            oracle, toys.images(1, height, width), torch.tensor([0]), "toy", mean, differentiate=False
        )
        assert found.tokens.layout.grid == (height // 2, width // 2)
        assert found.matrices[0].shape == (1, 2 + height * width // 4, 2 + height * width // 4)


class Idle(nn.Module):
    """A network of tokens whose first attention leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toys.token_net()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.net.conv2(self.net.pool(x.repeat(1, 3, 1, 1)[:, :8])).flatten(2).transpose(1, 2)
        self.net.blocks[0](tokens)
        return self.net.head(self.net.blocks[1](tokens).mean(dim=1))


def test_attention_that_leads_nowhere_has_no_slope():
    oracle = Oracle(tokens(Idle()))
    found = probe_attention(oracle, toys.images(2), torch.tensor([0, 1]), "toy", mean, differentiate=True)
    assert found.matrices[0].unique().tolist() == [0]
    assert found.matrices[1].abs().max() > 1e-6


class Drifting(nn.Module):
    """A network of tokens whose logits move by ``drift`` from call to call."""

    calls = 0

    def __init__(self, drift: float) -> None:
        super().__init__()
        self.net, self.drift = toys.token_net().float(), drift

    def forward(self, x: Tensor) -> Tensor:
        Drifting.calls += 1
        return self.net(x) + self.drift * (Drifting.calls % 2)


@pytest.mark.parametrize(("drift", "refused"), [(0.0001, "none"), (0.2, "both"), (0.02, "fp32")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_written_out_must_give_the_models_own_logits(drift, refused, precision):
    oracle = Oracle(tokens(Drifting(drift)), precision=precision)
    x, y = toys.images(1).float(), torch.tensor([0])
    if refused in (precision, "both"):
        with pytest.raises(UsageError, match="toy cannot follow the model's forward pass: its logits change"):
            probe_attention(oracle, x, y, "toy", mean, differentiate=False)
    else:
        assert probe_attention(oracle, x, y, "toy", mean, differentiate=False).tokens.layout.grid == (4, 5)


# ------------------------------------------------------------------------------------------------- propagate

KEEP = Rules(
    "toy", keep_gradient("route", "sum", "shift", "scale", "linear", "norm", "rectifier", "activation", "max"), ""
)


def test_rules_that_change_nothing_give_the_gradient_and_every_row_is_counted():
    """5 images with a stream of 5 others, 2 a call: rows of both are forwards and backwards, and a row a call is a check."""
    model, x, y = small(), toys.images(5), torch.tensor([0, 1, 2, 3, 4])
    rows, ticks = toys.watch(model), list[int]()
    oracle = Oracle(model, images=5, batch_size=2, on_rows=ticks.append)
    found = propagate(oracle, x, y, KEEP, 1 - x)
    assert rows == [4, 1, 4, 1, 2, 1]
    assert ticks == [5, 5, 3]
    assert oracle.cost == Cost(forwards=10, backwards=10, checks=3)
    assert oracle.image_rows.tolist() == [[2, 2]] * 5
    expected = Oracle(small()).gradients(x, y)
    assert close(found.scores, expected.scores)
    assert close(found.gradients[:, 0], expected.values)
    assert found.gradients[:, 1].unique().tolist() == [0]  # the score is not read from the stream's logits
    assert found.sums == {}


def test_what_rules_add_up_comes_back_for_each_image():
    """Two convolutions and a linear layer, in calls of two images and of one."""

    def count(operation: Operation) -> Tensor:
        operation.add_to_sum("operations", torch.ones(operation.rows))
        return operation.run()

    rules = Rules("toy", KEEP.table | {"linear": count}, "")
    found = propagate(Oracle(small(), batch_size=2), toys.images(5), torch.tensor([0, 1, 2, 3, 4]), rules)
    assert {name: each.tolist() for name, each in found.sums.items()} == {"operations": [3.0] * 5}


def small_memory(limit: int, error: RuntimeError, tried: list[int]) -> xplain.Classifier:
    """A model of means that raises ``error`` for more than ``limit`` rows; it notes the rows that were tried."""

    def function(x: Tensor) -> Tensor:
        tried.append(len(x))
        if len(x) > limit:
            raise error
        return x.mean(dim=(2, 3))

    return toys.classifier(toys.Function(function))


def test_a_model_that_counts_on_its_rows_is_refused_where_streams_go_with_them():
    x, y = toys.images(2), torch.tensor([0, 1])
    error = RuntimeError("shapes differ\nand more")
    with pytest.raises(
        UsageError, match=r"^toy cannot follow the model's forward pass: shapes differ; use saliency, .* any model$"
    ):
        propagate(Oracle(small_memory(2, error, [])), x, y, KEEP, x)
    with pytest.raises(RuntimeError, match=r"^shapes differ\nand more$"):  # without a stream it is the model's own
        propagate(Oracle(small_memory(1, error, [])), x, y, KEEP)
    with pytest.raises(RuntimeError, match=r"^CUDA error: lost$"):
        propagate(Oracle(small_memory(2, RuntimeError("CUDA error: lost"), [])), x, y, KEEP, x)


def test_rows_that_do_not_fit_with_their_streams_are_halved():
    tried = list[int]()
    oracle = Oracle(small_memory(4, torch.OutOfMemoryError("out of memory"), tried), batch_size=4)
    propagate(oracle, toys.images(1), torch.tensor([0]), KEEP)  # makes the working copy
    tried.clear()
    found = propagate(oracle, toys.images(4), torch.tensor([0, 1, 2, 0]), KEEP, toys.images(4))
    assert tried == [8, 4, 1, 4, 1]
    assert found.gradients[2, 0].sum(dim=(1, 2)).tolist() == pytest.approx([0, 0, 1])
    assert oracle.cost == Cost(forwards=9, backwards=9, checks=3)


@pytest.mark.parametrize(("shift", "refused"), [(0.001, "none"), (0.02, "fp32"), (0.2, "both")])
def test_how_far_logits_may_move_with_the_rows_depends_on_the_precision(shift, refused):
    def function(x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) + (shift if len(x) > 1 else 0.0)

    net = toys.Function(function).float()
    x, y = toys.images(2).float(), torch.tensor([0, 1])
    for precision in ("fp32", "bf16"):
        oracle = Oracle(toys.classifier(net), precision=precision)
        if refused in (precision, "both"):
            with pytest.raises(UsageError, match="toy cannot follow the model's forward pass: its logits change"):
                propagate(oracle, x, y, KEEP)
        else:
            assert torch.allclose(propagate(oracle, x, y, KEEP).gradients.amax(), torch.tensor(1 / 80))


def test_logits_that_custom_code_makes_are_refused():
    model = toys.classifier(toys.Function(lambda x: toys.Hidden.apply(x.mean(dim=(2, 3)))))
    with pytest.raises(UsageError, match="toy cannot see into compiled or custom code in the model"):
        propagate(Oracle(model), toys.images(2), torch.tensor([0, 1]), KEEP)


def test_a_score_without_a_rule_is_refused():
    rules = Rules("toy", KEEP.table, "", frozenset({"logit", "margin"}))
    with pytest.raises(UsageError, match="toy is not defined for score=prob; use logit or margin"):
        propagate(Oracle(small(), score="prob"), toys.images(2), torch.tensor([0, 1]), rules)


# ------------------------------------------------------------------------------------------------- precision


def test_bf16_runs_and_gives_float32():
    net = toys.small_net().float()
    model = toys.classifier(net)
    x, y = toys.images(2).float(), torch.tensor([3, 1])
    exact, reduced = Oracle(model), Oracle(model, precision="bf16")
    logits = reduced.logits(x)
    assert logits.dtype == torch.float32
    assert is_close(exact.logits(x), net(x), 1e-6)
    difference = (logits - exact.logits(x)).abs().max()
    assert 0 < difference < 0.05 * exact.logits(x).abs().max()
    result = reduced.gradients(x, y)
    assert result.values.dtype == result.scores.dtype == torch.float32
    expected = exact.gradients(x, y).values
    assert 0 < (result.values - expected).abs().max() < 0.1 * expected.abs().max()
    assert reduced.probe(x, y, "conv2").gradients.isfinite().all()


def test_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="'fp16'"):
        xplain.attribute(small_classifier(), toys.images(), "saliency", precision="fp16")  # type: ignore[arg-type]


def test_mean_is_normalization_mean():
    assert Oracle(small_classifier()).mean.flatten().tolist() == [0.4, 0.5, 0.6]
