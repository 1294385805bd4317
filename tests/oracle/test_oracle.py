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
from xplain.oracle import Oracle
from xplain.oracle.scores import compute_scores


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


def test_bf16_gives_float32():
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
    assert Oracle(small_classifier()).mean_color(toys.images()).flatten().tolist() == [0.4, 0.5, 0.6]
