"""Tests of AGI: Algorithms 1 and 2, the authors' restart, straight lines, closed forms and cost."""

import math

import pytest
import torch

import xplain
import xplain.pipelines.attribution
from tests.helpers import toys
from tests.reference import agi as reference
from tests.reference import gradients
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 2]
AGAINST = torch.tensor([[0, 3], [2, 4], [3, 1]])  # image 1 is predicted as 2: no step is taken towards that class
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 4


def linear(margin: float, image: torch.Tensor) -> xplain.Classifier:
    """Return a model of two linear logits that differ by ``margin`` at the image; class 0 has the larger one."""
    slack = margin - float(((WEIGHT[0] - WEIGHT[1]) * image).sum())
    return toys.classifier(toys.Linear(WEIGHT, torch.tensor([slack, 0.0], dtype=torch.float64)))


def smooth_model(classes: int = 3) -> toys.Function:
    """Return logits that are sums of sines; the last class is hardly ever the largest."""
    mix = torch.randn(classes, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) / 4
    offset = torch.tensor([0.0] * (classes - 1) + [-60.0], dtype=torch.float64)
    return toys.Function(lambda x: torch.einsum("bchw,kchw->bk", (2 * x).sin(), mix) + offset)


@pytest.mark.parametrize("batch_size", ["auto", 3])
@pytest.mark.parametrize("score", ["prob", "logit"])
@pytest.mark.parametrize("step_size", [0.02, 0.3])
@pytest.mark.parametrize("path", ["curve", "straight"])
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_agi_equals_reference(variant, path, step_size, score, batch_size):
    settings = {"variant": variant, "step_size": step_size, "steps": 5}
    attribution = xplain.attribute(
        CLASSIFIER,
        X,
        "agi",
        target=TARGETS,
        against=AGAINST,
        score=score,
        path=path,
        batch_size=batch_size,
        **settings,
    )
    for i, (image, target, false_classes) in enumerate(zip(X, TARGETS, AGAINST.tolist(), strict=True)):
        kind = gradients.SCORES[score]
        toys.assert_same(
            attribution.values[i], reference.agi(NETWORK, kind, image, target, false_classes, path=path, **settings)
        )
        climbs = [reference.climb(NETWORK, kind, image, target, false, **settings) for false in false_classes]
        assert attribution.details["steps"][i].tolist() == [taken for _, _, taken in climbs]
        if attribution.expected is not None:
            f = kind(NETWORK, target)
            toys.assert_same(attribution.expected[i], sum(f(image) - f(end) for _, end, _ in climbs).detach())


def test_agi_claims_completeness_for_paths_only():
    claims = {
        (variant, path): xplain.attribute(CLASSIFIER, X, "agi", variant=variant, path=path, steps=2).expected
        is not None
        for variant in ("paper", "official")
        for path in ("curve", "straight")
    }
    assert [name for name, claimed in claims.items() if not claimed] == [("official", "curve")]


def test_agi_margin_score_equals_reference():
    attribution = xplain.attribute(CLASSIFIER, X, "agi", target=2, against=[0, 3], score="margin", steps=4)
    for value, image in zip(attribution.values, X, strict=True):
        expected = reference.agi(
            NETWORK, gradients.margin, image, 2, [0, 3], step_size=0.05, steps=4, variant="official"
        )
        toys.assert_same(value, expected)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_agi_linear_logits_closed_form(steps):
    """φ = -J ε w_t ⊙ sign w_i, J = min(⌈margin / (ε Σ (w_i - w_t) · sign w_i)⌉, ``steps``); no pixel reaches 0 or 1."""
    epsilon, margin = 0.002, 0.9
    gain = epsilon * float(((WEIGHT[1] - WEIGHT[0]) * WEIGHT[1].sign()).sum())
    needed = min(math.ceil(margin / gain), steps)
    assert 4 < math.ceil(margin / gain) < 20
    attribution = xplain.attribute(
        linear(margin, X[0]),
        X[:1],
        "agi",
        target=0,
        against=1,
        score="logit",
        step_size=epsilon,
        steps=steps,
        variant="paper",
    )
    assert attribution.details["steps"].tolist() == [[needed]]
    toys.assert_same(attribution.values[0], -needed * epsilon * WEIGHT[0] * WEIGHT[1].sign(), rtol=1e-11)
    assert abs(float(attribution.gap)) < 1e-12


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_agi_ignores_values_unused_by_false_class(variant):
    weight = WEIGHT.clone()
    weight[1, 0] = 0
    model = toys.classifier(toys.Linear(weight, torch.tensor([50.0, 0.0], dtype=torch.float64)))
    attribution = xplain.attribute(model, X[:1], "agi", target=0, against=1, score="logit", steps=3, variant=variant)
    assert (attribution.values[0, 0] == 0).all()
    assert (attribution.values[0, 1:] != 0).all()


@pytest.mark.parametrize("path", ["curve", "straight"])
def test_agi_paths_agree_on_linear_logits(path):
    attribution = xplain.attribute(
        linear(0.3, X[0]),
        X[:1],
        "agi",
        target=0,
        against=1,
        score="logit",
        step_size=0.002,
        steps=3,
        variant="paper",
        path=path,
    )
    toys.assert_same(attribution.values[0], -3 * 0.002 * WEIGHT[0] * WEIGHT[1].sign(), rtol=1e-11)


def test_agi_official_linear_logits_closed_form():
    """Every restart returns to x + ε sign w_i, and adds that displacement once per step."""
    attribution = xplain.attribute(
        linear(0.3, X[0]), X[:1], "agi", target=0, against=1, score="logit", step_size=0.002, steps=6
    )
    toys.assert_same(attribution.values[0], -6 * 0.002 * WEIGHT[0] * WEIGHT[1].sign(), rtol=1e-11)


def test_agi_two_class_softmax_closed_form():
    """T5: ∇p_i = -∇p_t, so φ = ε Σ_k p_k (1 - p_k) |w_t - w_i|, never negative; margins fall by ε ‖w_t - w_i‖₁."""
    epsilon, margin, difference = 0.002, 0.8, WEIGHT[0] - WEIGHT[1]
    fall = epsilon * float(difference.abs().sum())
    steps = math.ceil(margin / fall)
    assert steps > 3
    p = torch.tensor([margin - k * fall for k in range(steps)], dtype=torch.float64).sigmoid()
    attribution = xplain.attribute(
        linear(margin, X[0]), X[:1], "agi", target=0, against=1, step_size=epsilon, steps=50, variant="paper"
    )
    assert attribution.details["steps"].tolist() == [[steps]]
    toys.assert_same(attribution.values[0], epsilon * float((p * (1 - p)).sum()) * difference.abs(), rtol=1e-11)


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agi_two_classes_is_non_negative(variant, seed):
    classifier, _ = toys.with_pixels(toys.small_net(seed, scale=15.0, classes=2))
    values = xplain.attribute(classifier, X, "agi", variant=variant, steps=4).values
    assert float(values.min()) >= 0.0 < float(values.max())


def test_agi_predicted_false_class_gives_zero():
    top = NETWORK(X).argmax(dim=1)
    assert top.tolist() == [2, 2, 2]
    attribution = xplain.attribute(CLASSIFIER, X, "agi", target=0, against=2)
    assert float(attribution.values.abs().max()) == 0.0
    assert attribution.details["steps"].tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("score", ["prob", "logit"])
def test_agi_gap_halves_with_step_size(score):
    """variant=paper is a left Riemann sum along its path: for a path of fixed length the error is proportional to the step size."""
    classifier = toys.classifier(smooth_model())
    gaps = []
    for parts in (1, 2, 4):
        attribution = xplain.attribute(
            classifier,
            X[:1],
            "agi",
            target=0,
            against=2,
            score=score,
            variant="paper",
            step_size=0.008 / parts,
            steps=8 * parts,
        )
        assert attribution.details["steps"].tolist() == [[8 * parts]]
        gaps.append(float(attribution.gap))
    assert abs(gaps[0]) > 1e-5
    assert gaps[0] / gaps[1] == pytest.approx(2.0, abs=0.2)
    assert gaps[1] / gaps[2] == pytest.approx(2.0, abs=0.1)


def test_agi_straight_path_is_complete():
    classifier = toys.classifier(smooth_model())
    attribution = xplain.attribute(
        classifier, X, "agi", target=0, against=[1, 2], path="straight", steps=12, step_size=0.02
    )
    assert float((attribution.gap / attribution.expected).abs().max()) < 1e-9


def test_agi_variants_agree_on_first_step():
    paper, official = (
        xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, against=AGAINST, steps=1, variant=variant).values
        for variant in ("paper", "official")
    )
    assert torch.equal(paper, official)
    paper, official = (
        xplain.attribute(CLASSIFIER, X, "agi", target=2, against=0, steps=4, variant=variant).values
        for variant in ("paper", "official")
    )
    assert float((paper - official).abs().max()) > 1e-4


def test_agi_ignores_order_of_false_classes():
    first, second = (
        xplain.attribute(CLASSIFIER, X, "agi", target=2, against=order, steps=4).values
        for order in ([0, 3, 4], [4, 0, 3])
    )
    toys.assert_same(first, second, rtol=1e-11)


def test_agi_sums_over_false_classes():
    both = xplain.attribute(CLASSIFIER, X, "agi", target=2, against=[0, 3], steps=4).values
    single = [xplain.attribute(CLASSIFIER, X, "agi", target=2, against=c, steps=4).values for c in (0, 3)]
    toys.assert_same(both, sum(single), rtol=1e-11)


def test_draw_classes_excludes_target():
    classes = xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, steps=1, classes=3).details["classes"]
    for row, target in zip(classes.tolist(), TARGETS, strict=True):
        assert len(set(row)) == 3
        assert target not in row
        assert set(row) < set(range(5))


def test_draw_classes_with_few_classes():
    classes = xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, steps=1, classes=20).details["classes"]
    assert [sorted(row) for row in classes.tolist()] == [[0, 1, 3, 4], [1, 2, 3, 4], [0, 1, 3, 4]]


def test_draw_classes_is_uniform():
    """400 images draw 2 of 4 classes: every class 200 times, standard deviation 10."""
    model = toys.classifier(toys.small_net(1, classes=5))
    classes = xplain.attribute(model, toys.images(400, 2, 2), "agi", target=1, steps=1, classes=2).details["classes"]
    counts = classes.flatten().bincount(minlength=5).tolist()
    assert counts[1] == 0
    assert all(150 < counts[c] < 250 for c in (0, 2, 3, 4))
    assert len({tuple(sorted(row)) for row in classes.tolist()}) == 6


def test_draw_classes_depends_on_image_and_seed():
    together = xplain.attribute(CLASSIFIER, X, "agi", target=2, steps=1, classes=2).details["classes"]
    alone = xplain.attribute(CLASSIFIER, X[1:2], "agi", target=2, steps=1, classes=2).details["classes"]
    assert together[1].tolist() == alone[0].tolist()
    many = toys.images(20)
    draws = [
        xplain.attribute(CLASSIFIER, many, "agi", target=2, steps=1, classes=2, seed=s).details["classes"]
        for s in (0, 1)
    ]
    assert not torch.equal(*draws)


def test_agi_rejects_model_with_one_class():
    with pytest.raises(UsageError, match="one class"):
        xplain.attribute(toys.classifier(toys.small_net(1, classes=1)), X, "agi")


def constant_prediction() -> xplain.Classifier:
    """Return a model that always predicts class 2."""
    net = toys.small_net(1)
    net.head.bias.data[2] += 1000
    return toys.with_pixels(net)[0]


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_agi_curve_cost(variant):
    classifier = constant_prediction()
    rows = toys.watch(classifier)
    attribution = xplain.attribute(classifier, X, "agi", against=[0, 3, 4], steps=6, variant=variant, score="logit")
    assert (attribution.cost.forwards, attribution.cost.backwards) == (3 * 3 * 6, 2 * 3 * 3 * 6)
    assert METHODS.get("agi").cost(steps=6, classes=3, path="curve") == (3 * 6, 2 * 3 * 6)
    ends = [9, *([3, 9] if variant == "paper" else [])]  # the points after the last step; the ends of a complete path
    assert rows == [3] + [9] * 6 + ends
    assert attribution.cost.checks == 3 + sum(ends)


def test_agi_straight_cost():
    attribution = xplain.attribute(
        constant_prediction(), X, "agi", against=[0, 3, 4], steps=6, path="straight", score="logit"
    )
    assert (attribution.cost.forwards, attribution.cost.backwards) == (3 * 3 * 2 * 6, 3 * 3 * 2 * 6)
    assert METHODS.get("agi").cost(steps=6, classes=3, path="straight") == (3 * 2 * 6, 3 * 2 * 6)


def test_draw_classes_cost():
    """3 rows for the targets, one for the number of classes, 6 for the points after the only step."""
    classifier = constant_prediction()
    rows = toys.watch(classifier)
    attribution = xplain.attribute(classifier, X, "agi", classes=2, steps=1, score="logit")
    assert rows == [3, 1, 6, 6]
    assert (attribution.cost.forwards, attribution.cost.backwards, attribution.cost.checks) == (6, 12, 3 + 1 + 6)


@pytest.mark.parametrize(("method", "keeps_norms"), [("agi", True), ("saliency", False)])
def test_plain_methods_keep_batch_norms(method, keeps_norms, monkeypatch):
    """Methods that amplify rounding run the network's own norms; other methods fold them into the convolutions."""
    norm, calls = torch.nn.functional.batch_norm, []

    def record(*args, **kwargs):
        calls.append(1)
        return norm(*args, **kwargs)

    xplain.attribute(CLASSIFIER, X, method, target=TARGETS)  # creates the working copies
    monkeypatch.setattr(torch.nn.functional, "batch_norm", record)
    xplain.attribute(CLASSIFIER, X, method, target=TARGETS)
    assert bool(calls) == keeps_norms


def test_agi_finished_ascents_cost_nothing():
    """J steps need J + 1 gradients, unless the limit is reached first."""
    false = torch.tensor([[0, 3], [2, 3], [3, 1]])
    attribution = xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, against=false, variant="paper", steps=8)
    taken = attribution.details["steps"]
    assert taken[1].tolist() == [0, 2]
    assert int(taken.max()) < 8
    assert attribution.cost.forwards == int((taken + 1).sum())
    assert attribution.cost.backwards == 2 * attribution.cost.forwards


@pytest.mark.parametrize(("steps", "reached"), [(1, False), (2, False), (3, True), (4, True)])
def test_agi_flags_unreached_false_classes(steps, reached):
    """The third step uses up a margin of two and a half steps."""
    gain = 0.002 * float(((WEIGHT[1] - WEIGHT[0]) * WEIGHT[1].sign()).sum())
    attribution = xplain.attribute(
        linear(2.5 * gain, X[0]),
        X[:1],
        "agi",
        target=0,
        against=1,
        score="logit",
        step_size=0.002,
        steps=steps,
        variant="paper",
    )
    assert toys.warned(attribution, f"the attack reached no false class within {steps} steps") == [not reached]
