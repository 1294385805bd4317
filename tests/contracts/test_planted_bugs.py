"""Bugs known from published programs: each check passes on the code, and fails when the bug is planted."""

import pytest
import torch

import xplain
import xplain.methods._quadrature
import xplain.methods.integrated_gradients as ig
import xplain.oracle.oracle
import xplain.pipelines.measurement
from tests.helpers import toys
from xplain.core.errors import InputError
from xplain.oracle import Oracle
from xplain.pipelines.method_run import MethodRun

RULES = ["gauss-legendre", "midpoint", "left", "right", "trapezoid", "chebyshev"]
X = toys.images(3)
WEIGHT = torch.randn(3, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 4


def linear() -> xplain.Classifier:
    return toys.classifier(toys.Linear(WEIGHT, torch.tensor([40.0, 20.0, 0.0], dtype=torch.float64)))


def fails(check, *arguments) -> bool:
    """Return whether a check fails."""
    try:
        check(*arguments)
    except AssertionError:
        return True
    return False


# Bug: weights that do not sum to one (captum's trapezoid rule, 2 % short at 50 nodes; ABE's integrated gradients).


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


def check_completeness_on_linear_model() -> None:
    result = xplain.attribute(linear(), X, "ig", target=1, rule="trapezoid", steps=50)
    toys.assert_same(result.total, (WEIGHT[1] * X).sum(dim=(1, 2, 3)))


def test_short_trapezoid_weights_are_caught(monkeypatch):
    def short(rule, steps, like):
        weights = torch.full((steps,), 1 / steps, dtype=like.dtype)
        weights[[0, -1]] /= 2
        return torch.linspace(0, 1, steps, dtype=like.dtype), weights

    check_completeness_on_linear_model()
    monkeypatch.setattr(xplain.methods._quadrature, "quadrature", short)
    monkeypatch.setattr(ig, "quadrature", short)
    assert fails(check_weights, "trapezoid", 50)
    assert fails(check_completeness_on_linear_model)


# Bug: gradients that add up from step to step (the published MFABA and BIG).


def check_steps_are_independent(method: str, expected: torch.Tensor, **settings) -> None:
    values = xplain.attribute(linear(), X[:1], method, target=0, score="logit", **settings).values
    toys.assert_same(values[0], expected)


STEP_CASES = [
    ("mfaba", WEIGHT[0].abs() * 0.01 * 4, {"ascent": "smooth", "step_size": 0.01, "steps": 4}),
    ("mfaba", WEIGHT[0].abs() * 0.01 * 4, {"ascent": "smooth", "step_size": 0.01, "steps": 4, "rule": "left"}),
    ("neflag", WEIGHT[0].abs() * 0.1 * 2, {"samples": 2, "steps": 3, "flux": "end"}),
    (
        "agi",
        -WEIGHT[0] * WEIGHT[1].sign() * 0.01 * 4,
        {"against": 1, "variant": "paper", "step_size": 0.01, "steps": 4},
    ),
]


@pytest.mark.parametrize(("method", "expected", "settings"), STEP_CASES)
def test_accumulated_gradients_are_caught(method, expected, settings, monkeypatch):
    """With linear logits each step has the same gradient, so n steps give n displacements, not 1 + 2 + ... + n."""
    check_steps_are_independent(method, expected, **settings)
    original = Oracle.gradients
    history = []

    def accumulate(self, x, y, image=None):
        result = original(self, x, y, image)
        history.append(result.values)
        return result._replace(values=sum(history))

    monkeypatch.setattr(Oracle, "gradients", accumulate)
    assert fails(lambda: check_steps_are_independent(method, expected, **settings))


# Bug: targets mixed across the batch by out[:, targets] (the published batched AGI, and LA).


def check_targets_are_separate(method: str, **settings) -> None:
    """The map of image 0 is that of its own target, whatever the targets of the other images are."""
    classifier, _ = toys.with_pixels(toys.small_net(1, scale=15.0))
    alone = xplain.attribute(classifier, X[:1], method, target=2, **settings).values[0]
    for others in ([0, 3], [3, 1]):
        together = xplain.attribute(classifier, X, method, target=[2, *others], **settings).values[0]
        toys.assert_same(together, alone)


SETTINGS = {
    "saliency": {},
    "integrated-gradients": {"steps": 3},
    "agi": {"against": 4, "steps": 3},
    "mfaba": {"steps": 3},
    "dga": {"steps": 2},
}


@pytest.mark.parametrize("method", SETTINGS)
def test_mixed_targets_are_caught(method, monkeypatch):
    check_targets_are_separate(method, **SETTINGS[method])

    def mix(logits, y, kind, against, output):
        values = logits.softmax(1) if kind == "prob" else logits
        columns = y if y.ndim == 2 else y[:, None]
        scores = torch.stack([values[:, column].sum(dim=1) for column in columns.unbind(dim=1)], dim=1)
        return scores if y.ndim == 2 else scores[:, 0]

    monkeypatch.setattr(xplain.oracle.oracle, "compute_scores", mix)
    assert fails(lambda: check_targets_are_separate(method, **SETTINGS[method]))


# Bug: the last weight of a chunk applied to the whole chunk (PAIR's blur_ig.py, line 118).


def check_weights_in_chunks() -> None:
    """7 Gauss-Legendre nodes are exact for f = Σ x³ / 3, in chunks of 7, 3 and 1."""
    model = toys.classifier(toys.Function(lambda x: torch.stack([(x**3).sum(dim=(1, 2, 3)) / 3] * 2, dim=1)))
    for batch_size in (7, 3, 1):
        values = xplain.attribute(model, X, "ig", target=0, steps=7, batch_size=batch_size).values
        toys.assert_same(values, X**3 / 3)


def test_one_weight_per_chunk_is_caught(monkeypatch):
    check_weights_in_chunks()

    def by_chunk(oracle, x, y, start, nodes, weights):
        total = torch.zeros_like(x)
        for block in oracle.blocks(x, len(nodes)):
            positions = nodes[block.points][:, None, None, None]
            points = torch.lerp(start[block.images, None], x[block.images, None], positions)
            gradients = oracle.block_gradients(block, points, y)
            total[block.images] += weights[block.points.stop - 1] * gradients.sum(dim=1)
        return total

    monkeypatch.setattr(ig, "line_integral", by_chunk)
    assert fails(check_weights_in_chunks)


# Bug: NaN ranked first (all evaluators that flip an argsort), or replaced by 0.


def map_with_nan() -> torch.Tensor:
    """A good map with one NaN, at a pixel that does not matter."""
    values = WEIGHT[1] * X
    values[0, 0, 5, 5] = float("nan")
    return values


def check_nan_is_refused(metric: str) -> None:
    try:
        xplain.measure(linear(), X, map_with_nan(), metric, target=1, steps=4)
    except InputError as error:
        assert "NaN" in str(error)  # noqa: PT017
    else:
        raise AssertionError("a map with NaN was ranked")


@pytest.mark.parametrize("metric", ["deletion", "insertion"])
@pytest.mark.parametrize("repair", [lambda x: x, lambda x: x.nan_to_num()])
def test_ranked_nan_is_caught(metric, repair, monkeypatch):
    check_nan_is_refused(metric)
    monkeypatch.setattr(xplain.pipelines.measurement, "check_attributions", lambda classifier, maps, **_: repair(maps))
    assert fails(check_nan_is_refused, metric)


def check_nan_logits_are_refused() -> None:
    """A model that fails on one image raises an error, instead of giving a map of zeros or the top class 0."""

    def logits(x):
        good = x.sum(dim=(1, 2, 3))
        return torch.stack([good, good * torch.where(x[:, 0, 0, 0] > 0.95, float("nan"), 1.0)], dim=1)

    images = X.clone()
    images[1, 0, 0, 0] = 0.99
    try:
        xplain.attribute(toys.classifier(toys.Function(logits)), images, "saliency")
    except InputError as error:
        assert "image 1" in str(error)  # noqa: PT017
    else:
        raise AssertionError("NaN logits were explained")


def test_explained_nan_logits_are_caught(monkeypatch):
    check_nan_logits_are_refused()
    monkeypatch.setattr(
        xplain.pipelines.attribution, "has_finite_logits", lambda logits: torch.ones(len(logits), dtype=torch.bool)
    )
    assert fails(check_nan_logits_are_refused)


# Bug: maps scaled to [0, 1], which loses the raw values (pytorch-grad-cam).


def check_raw_values() -> None:
    """Doubling the logits doubles the map, and negative values stay negative."""
    doubled = toys.classifier(toys.Linear(2 * WEIGHT))
    values = xplain.attribute(linear(), X, "gxi", target=1).values
    toys.assert_same(xplain.attribute(doubled, X, "gxi", target=1).values, 2 * values)
    assert float(values.min()) < 0.0


def test_maps_scaled_to_one_are_caught(monkeypatch):
    check_raw_values()
    original = MethodRun.attribute

    def scale(*arguments, **keywords):
        result = original(*arguments, **keywords)
        result.values.sub_(result.values.min()).div_(result.values.max())
        return result

    monkeypatch.setattr(MethodRun, "attribute", scale)
    assert fails(check_raw_values)
