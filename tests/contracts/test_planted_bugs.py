"""Errors known from published programs: each check passes on the code as it is, and fails when the error is planted."""

import numpy as np
import pytest
import torch

import xplain
import xplain.data.filters
import xplain.methods.integrated_gradients as ig
import xplain.oracle.oracle
import xplain.pipelines.attribution
from tests.helpers import toys
from xplain.core.errors import InputError
from xplain.oracle import Oracle
from xplain.oracle.answers import GradientResult

RULES = ["gauss-legendre", "midpoint", "left", "right", "trapezoid"]
X = toys.images(3)
WEIGHT = torch.randn(3, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 4


def linear() -> xplain.Classifier:
    return toys.classifier(toys.Linear(WEIGHT, torch.tensor([40.0, 20.0, 0.0], dtype=torch.float64)))


def caught(check, *arguments) -> bool:
    """Whether a check that passes on sound code fails now."""
    try:
        check(*arguments)
    except AssertionError:
        return True
    return False


# --------------------------------- weights that do not sum to one (captum's trapezoid, 2 % short at 50 nodes; ABE's IG)


def check_weights(rule: str, steps: int) -> None:
    nodes, weights = xplain.methods._quadrature.quadrature(rule, steps, X)
    assert abs(float(weights.sum()) - 1) < 1e-13
    assert len(nodes) == len(weights) == steps
    assert 0 <= float(nodes.min()) <= float(nodes.max()) <= 1
    assert (nodes.diff() > 0).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 3, 50])
def test_quadrature_weights_sum_to_one(rule, steps):
    check_weights(rule, steps)


def check_completeness_on_a_line() -> None:
    found = xplain.attribute(linear(), X, "ig", target=1, rule="trapezoid", steps=50)
    toys.assert_same(found.total, (WEIGHT[1] * X).sum(dim=(1, 2, 3)))


def test_the_trapezoid_of_captum_would_be_caught(monkeypatch):
    def short(rule, steps, like):
        weights = torch.full((steps,), 1 / steps, dtype=like.dtype)
        weights[[0, -1]] /= 2
        return torch.linspace(0, 1, steps, dtype=like.dtype), weights

    check_completeness_on_a_line()
    monkeypatch.setattr(xplain.methods._quadrature, "quadrature", short)
    monkeypatch.setattr(ig, "quadrature", short)
    assert caught(check_weights, "trapezoid", 50)
    assert caught(check_completeness_on_a_line)


# ------------------------------------------ gradients that add up from step to step (the published MFABA and BIG)


def check_steps_forget(method: str, expected: torch.Tensor, **settings) -> None:
    values = xplain.attribute(linear(), X[:1], method, target=0, score="logit", **settings).values
    toys.assert_same(values[0], expected)


LAST_STEPS = [
    ("mfaba", WEIGHT[0].abs() * 0.01 * 4, {"ascent": "smooth", "step_size": 0.01, "steps": 4}),
    ("mfaba", WEIGHT[0].abs() * 0.01 * 4, {"ascent": "smooth", "step_size": 0.01, "steps": 4, "rule": "left"}),
    ("neflag", WEIGHT[0].abs() * 0.1 * 2, {"samples": 2, "steps": 3, "flux": "end"}),
    (
        "agi",
        -WEIGHT[0] * WEIGHT[1].sign() * 0.01 * 4,
        {"against": 1, "variant": "paper", "step_size": 0.01, "steps": 4},
    ),
]


@pytest.mark.parametrize(("method", "expected", "settings"), LAST_STEPS)
def test_gradients_that_add_up_between_steps_would_be_caught(method, expected, settings, monkeypatch):
    """Linear logits: every step sees the same gradient, so n steps count n displacements and not 1 + 2 + ... + n."""
    check_steps_forget(method, expected, **settings)
    honest, held = Oracle.gradients, []

    def adding_up(self, x, y, image=None):
        found = honest(self, x, y, image)
        held.append(found.values)
        return GradientResult(found.scores, sum(held), found.predicted)

    monkeypatch.setattr(Oracle, "gradients", adding_up)
    assert caught(lambda: check_steps_forget(method, expected, **settings))


# -------------------------------- labels mixed across the batch by out[:, targets] (the published batched AGI, and LA)


def check_targets_are_separate(method: str, **settings) -> None:
    """Image 0's map is that of its own target, whatever the others' targets are."""
    classifier, _ = toys.with_pixels(toys.small_net(1, scale=15.0))
    alone = xplain.attribute(classifier, X[:1], method, target=2, **settings).values[0]
    for others in ([0, 3], [3, 1]):
        together = xplain.attribute(classifier, X, method, target=[2, *others], **settings).values[0]
        toys.assert_same(together, alone)


MANY = {
    "saliency": {},
    "integrated-gradients": {"steps": 3},
    "agi": {"against": 4, "steps": 3},
    "mfaba": {"steps": 3},
    "dga": {"steps": 2},
}


@pytest.mark.parametrize("method", MANY)
def test_labels_mixed_across_the_batch_would_be_caught(method, monkeypatch):
    check_targets_are_separate(method, **MANY[method])

    def mixed(logits, y, kind, against=None):
        values = logits.softmax(1) if kind == "prob" else logits
        columns = y if y.ndim == 2 else y[:, None]
        scores = torch.stack([values[:, column].sum(dim=1) for column in columns.unbind(dim=1)], dim=1)
        return scores if y.ndim == 2 else scores[:, 0]

    monkeypatch.setattr(xplain.oracle.oracle, "score_of", mixed)
    assert caught(lambda: check_targets_are_separate(method, **MANY[method]))


# ------------------------------------------ a chunk's last weight applied to the whole chunk (PAIR's blur_ig.py, 118)


def check_weights_go_by_index() -> None:
    """f = Σ x³ / 3 by 7 Gauss-Legendre nodes is exact, in chunks of 7, 3 and 1."""
    model = toys.classifier(toys.Function(lambda x: torch.stack([(x**3).sum(dim=(1, 2, 3)) / 3] * 2, dim=1)))
    for batch_size in (7, 3, 1):
        values = xplain.attribute(model, X, "ig", target=0, steps=7, batch_size=batch_size).values
        toys.assert_same(values, X**3 / 3)


def test_a_weight_for_a_whole_chunk_would_be_caught(monkeypatch):
    check_weights_go_by_index()

    def by_chunk(oracle, x, y, start, nodes, weights):
        def points(block):
            return torch.lerp(
                start[block.images, None], x[block.images, None], nodes[block.points][:, None, None, None]
            )

        total = torch.zeros_like(x)
        for block, _, gradients in oracle.sweep(x, y, len(nodes), points):
            total[block.images] += weights[block.points.stop - 1] * gradients.sum(dim=1)
        return total

    monkeypatch.setattr(ig, "line_integral", by_chunk)
    assert caught(check_weights_go_by_index)


@pytest.mark.parametrize("count", [1, 2, 5, 16, 23])
@pytest.mark.parametrize("rows", [1, 3, 7, 16, 100])
@pytest.mark.parametrize("images", [1, 3, 4])
def test_blocks_cover_every_point_of_every_image_once_and_hold_no_more_than_fits(images, rows, count):
    oracle = Oracle(linear(), batch_size=rows)
    seen = np.zeros((images, count), dtype=int)
    for block in oracle.blocks(torch.zeros(images, 3, 8, 10), count):
        seen[block.images, block.points] += 1
        assert 0 < block.shape[0] * block.shape[1] <= rows
    assert (seen == 1).all()


# ------------------------------------- NaN sorted to the top of the ranking (every argsort-then-flip evaluator), or to 0


def broken_map() -> torch.Tensor:
    """A good map with one NaN, at a pixel that does not matter."""
    values = WEIGHT[1] * X
    values[0, 0, 5, 5] = float("nan")
    return values


def check_nan_is_refused(metric: str) -> None:
    try:
        xplain.measure(linear(), X, broken_map(), metric, target=1, steps=4)
    except InputError as refusal:
        assert "NaN" in str(refusal)  # noqa: PT017
    else:
        raise AssertionError("a map with NaN was ranked")


@pytest.mark.parametrize("metric", ["deletion", "insertion"])
@pytest.mark.parametrize("cure", [lambda x: x, lambda x: x.nan_to_num()])
def test_nan_in_a_ranking_would_be_caught(metric, cure, monkeypatch):
    check_nan_is_refused(metric)
    monkeypatch.setattr(xplain.pipelines.attribution, "check_images", lambda classifier, images, *_: cure(images))
    assert caught(check_nan_is_refused, metric)


def check_nan_logits_are_refused() -> None:
    """A model that fails on one image says so, instead of a map of zeros or a top class of 0."""

    def logits(x):
        good = x.sum(dim=(1, 2, 3))
        return torch.stack([good, good * torch.where(x[:, 0, 0, 0] > 0.95, float("nan"), 1.0)], dim=1)

    images = X.clone()
    images[1, 0, 0, 0] = 0.99
    try:
        xplain.attribute(toys.classifier(toys.Function(logits)), images, "saliency")
    except InputError as refusal:
        assert "image 1" in str(refusal)  # noqa: PT017
    else:
        raise AssertionError("NaN logits were explained")


def test_nan_logits_would_be_caught(monkeypatch):
    check_nan_logits_are_refused()
    monkeypatch.setattr(
        xplain.pipelines.attribution, "check_logits", lambda logits: torch.ones(len(logits), dtype=torch.bool)
    )
    assert caught(check_nan_logits_are_refused)


# ---------------------------------------- maps squeezed into [0, 1], so that raw values are lost (pytorch-grad-cam)


def check_raw_values() -> None:
    """Twice the model, twice the map; and negative values stay."""
    twice = toys.classifier(toys.Linear(2 * WEIGHT))
    once = xplain.attribute(linear(), X, "gxi", target=1).values
    toys.assert_same(xplain.attribute(twice, X, "gxi", target=1).values, 2 * once)
    assert float(once.min()) < 0.0


def test_maps_scaled_to_one_would_be_caught(monkeypatch):
    check_raw_values()
    honest = xplain.pipelines.attribution.run_method

    def squeezed(*arguments, **keywords):
        found = honest(*arguments, **keywords)
        found.values.sub_(found.values.min()).div_(found.values.max())
        return found

    monkeypatch.setattr(xplain.pipelines.attribution, "run_method", squeezed)
    assert caught(check_raw_values)
