"""AGI: Algorithms 1 and 2, the authors' restart, straight lines, closed forms, and what it costs."""

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
AGAINST = torch.tensor([[0, 3], [2, 4], [3, 1]])  # image 1 is predicted as 2: that class is there already
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 4


def linear(margin: float, image: torch.Tensor) -> xplain.Classifier:
    """Two linear logits that differ by ``margin`` at the image; class 0 leads."""
    slack = margin - float(((WEIGHT[0] - WEIGHT[1]) * image).sum())
    return toys.classifier(toys.Linear(WEIGHT, torch.tensor([slack, 0.0], dtype=torch.float64)))


def smooth_model(classes: int = 3) -> toys.Function:
    """Logits that are sums of sines; class 2 can hardly become the largest."""
    mix = torch.randn(classes, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) / 4
    offset = torch.tensor([0.0] * (classes - 1) + [-60.0], dtype=torch.float64)
    return toys.Function(lambda x: torch.einsum("bchw,kchw->bk", (2 * x).sin(), mix) + offset)


@pytest.mark.parametrize("batch_size", ["auto", 3])
@pytest.mark.parametrize("score", ["prob", "logit"])
@pytest.mark.parametrize("step_size", [0.02, 0.3])
@pytest.mark.parametrize("path", ["curve", "straight"])
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_equals_the_reference(variant, path, step_size, score, batch_size):
    settings = {"variant": variant, "step_size": step_size, "steps": 5}
    found = xplain.attribute(
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
    for i, (image, target, false) in enumerate(zip(X, TARGETS, AGAINST.tolist(), strict=True)):
        kind = gradients.SCORES[score]
        toys.assert_same(found.values[i], reference.agi(NETWORK, kind, image, target, false, path=path, **settings))
        climbs = [reference.climb(NETWORK, kind, image, target, each, **settings) for each in false]
        assert found.details["steps"][i].tolist() == [taken for _, _, taken in climbs]
        if found.expected is not None:
            f = kind(NETWORK, target)
            toys.assert_same(found.expected[i], sum(f(image) - f(end) for _, end, _ in climbs).detach())


def test_completeness_is_claimed_for_paths_only():
    claims = {
        (variant, path): xplain.attribute(CLASSIFIER, X, "agi", variant=variant, path=path, steps=2).expected
        is not None
        for variant in ("paper", "official")
        for path in ("curve", "straight")
    }
    assert [name for name, claimed in claims.items() if not claimed] == [("official", "curve")]


def test_margin_scores_equal_the_reference():
    found = xplain.attribute(CLASSIFIER, X, "agi", target=2, against=[0, 3], score="margin", steps=4)
    for value, image in zip(found.values, X, strict=True):
        expected = reference.agi(
            NETWORK, gradients.margin, image, 2, [0, 3], step_size=0.05, steps=4, variant="official"
        )
        toys.assert_same(value, expected)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_linear_logits_give_one_displacement_a_step_until_the_margin_is_used_up(steps):
    """φ = -J ε w_t ⊙ sign w_i, J = ⌈margin / (ε Σ (w_i - w_t) · sign w_i)⌉ or ``steps``; no pixel reaches 0 or 1."""
    epsilon, margin = 0.002, 0.9
    gain = epsilon * float(((WEIGHT[1] - WEIGHT[0]) * WEIGHT[1].sign()).sum())
    needed = min(math.ceil(margin / gain), steps)
    assert 4 < math.ceil(margin / gain) < 20
    found = xplain.attribute(
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
    assert found.details["steps"].tolist() == [[needed]]
    toys.assert_same(found.values[0], -needed * epsilon * WEIGHT[0] * WEIGHT[1].sign(), rtol=1e-11)
    assert abs(float(found.gap)) < 1e-12


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_a_pixel_that_the_false_class_does_not_look_at_stays(variant):
    weight = WEIGHT.clone()
    weight[1, 0] = 0
    model = toys.classifier(toys.Linear(weight, torch.tensor([50.0, 0.0], dtype=torch.float64)))
    found = xplain.attribute(model, X[:1], "agi", target=0, against=1, score="logit", steps=3, variant=variant)
    assert (found.values[0, 0] == 0).all()
    assert (found.values[0, 1:] != 0).all()


@pytest.mark.parametrize("path", ["curve", "straight"])
def test_a_straight_path_gives_the_same_on_linear_logits(path):
    found = xplain.attribute(
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
    toys.assert_same(found.values[0], -3 * 0.002 * WEIGHT[0] * WEIGHT[1].sign(), rtol=1e-11)


def test_official_stays_on_one_corner_of_a_linear_model():
    """The restart comes back to x + ε sign w_i each time, and counts that displacement once a step."""
    found = xplain.attribute(
        linear(0.3, X[0]), X[:1], "agi", target=0, against=1, score="logit", step_size=0.002, steps=6
    )
    toys.assert_same(found.values[0], -6 * 0.002 * WEIGHT[0] * WEIGHT[1].sign(), rtol=1e-11)


def test_two_class_softmax_gives_the_sum_of_absolute_gradients():
    """T5: ∇p_i = -∇p_t, so φ = ε Σ_k p_k (1 - p_k) |w_t - w_i|, never negative; margins fall by ε ‖w_t - w_i‖₁."""
    epsilon, margin, difference = 0.002, 0.8, WEIGHT[0] - WEIGHT[1]
    fall = epsilon * float(difference.abs().sum())
    steps = math.ceil(margin / fall)
    assert steps > 3
    p = torch.tensor([margin - k * fall for k in range(steps)], dtype=torch.float64).sigmoid()
    found = xplain.attribute(
        linear(margin, X[0]), X[:1], "agi", target=0, against=1, step_size=epsilon, steps=50, variant="paper"
    )
    assert found.details["steps"].tolist() == [[steps]]
    toys.assert_same(found.values[0], epsilon * float((p * (1 - p)).sum()) * difference.abs(), rtol=1e-11)


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_classes_never_give_a_negative_map(variant, seed):
    classifier, _ = toys.with_pixels(toys.small_net(seed, scale=15.0, classes=2))
    values = xplain.attribute(classifier, X, "agi", variant=variant, steps=4).values
    assert float(values.min()) >= 0.0 < float(values.max())


def test_a_false_class_that_is_already_predicted_gives_zero():
    top = NETWORK(X).argmax(dim=1)
    assert top.tolist() == [2, 2, 2]
    found = xplain.attribute(CLASSIFIER, X, "agi", target=0, against=2)
    assert float(found.values.abs().max()) == 0.0
    assert found.details["steps"].tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("score", ["prob", "logit"])
def test_the_gap_of_one_class_halves_with_the_step(score):
    """paper is a left Riemann sum along its path: at one end time the error is proportional to the step."""
    classifier = toys.classifier(smooth_model())
    gaps = []
    for parts in (1, 2, 4):
        found = xplain.attribute(
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
        assert found.details["steps"].tolist() == [[8 * parts]]
        gaps.append(float(found.gap))
    assert abs(gaps[0]) > 1e-5
    assert gaps[0] / gaps[1] == pytest.approx(2.0, abs=0.2)
    assert gaps[1] / gaps[2] == pytest.approx(2.0, abs=0.1)


def test_straight_lines_are_complete_to_nine_digits_on_a_smooth_model():
    classifier = toys.classifier(smooth_model())
    found = xplain.attribute(classifier, X, "agi", target=0, against=[1, 2], path="straight", steps=12, step_size=0.02)
    assert float((found.gap / found.expected).abs().max()) < 1e-9


def test_variants_agree_on_the_first_step_and_part_after_it():
    one, other = (
        xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, against=AGAINST, steps=1, variant=v).values
        for v in ("paper", "official")
    )
    assert torch.equal(one, other)
    one, other = (
        xplain.attribute(CLASSIFIER, X, "agi", target=2, against=0, steps=4, variant=v).values
        for v in ("paper", "official")
    )
    assert float((one - other).abs().max()) > 1e-4


def test_the_order_of_the_false_classes_does_not_matter():
    one, other = (
        xplain.attribute(CLASSIFIER, X, "agi", target=2, against=order, steps=4).values
        for order in ([0, 3, 4], [4, 0, 3])
    )
    toys.assert_same(one, other, rtol=1e-11)


def test_the_sum_over_classes_is_the_sum_of_single_runs():
    both = xplain.attribute(CLASSIFIER, X, "agi", target=2, against=[0, 3], steps=4).values
    single = [xplain.attribute(CLASSIFIER, X, "agi", target=2, against=c, steps=4).values for c in (0, 3)]
    toys.assert_same(both, sum(single), rtol=1e-11)


# --------------------------------------------------------------------- the draw


def test_drawn_classes_are_distinct_and_leave_out_the_target():
    found = xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, steps=1, classes=3).details["classes"]
    for row, target in zip(found.tolist(), TARGETS, strict=True):
        assert len(set(row)) == 3
        assert target not in row
        assert set(row) < set(range(5))


def test_all_other_classes_are_taken_when_there_are_fewer_than_asked_for():
    found = xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, steps=1, classes=20).details["classes"]
    assert [sorted(row) for row in found.tolist()] == [[0, 1, 3, 4], [1, 2, 3, 4], [0, 1, 3, 4]]


def test_every_other_class_is_drawn_equally_often_and_anew_for_each_image():
    """400 images, 2 of 4 classes each: each class 200 times, standard deviation 10."""
    model = toys.classifier(toys.small_net(1, classes=5))
    found = xplain.attribute(model, toys.images(400, 2, 2), "agi", target=1, steps=1, classes=2).details["classes"]
    counts = found.flatten().bincount(minlength=5).tolist()
    assert counts[1] == 0
    assert all(150 < counts[c] < 250 for c in (0, 2, 3, 4))
    assert len({tuple(sorted(row)) for row in found.tolist()}) == 6


def test_an_image_draws_the_same_classes_in_any_batch_and_others_under_another_seed():
    together = xplain.attribute(CLASSIFIER, X, "agi", target=2, steps=1, classes=2).details["classes"]
    alone = xplain.attribute(CLASSIFIER, X[1:2], "agi", target=2, steps=1, classes=2).details["classes"]
    assert together[1].tolist() == alone[0].tolist()
    many = toys.images(20)
    draws = [
        xplain.attribute(CLASSIFIER, many, "agi", target=2, steps=1, classes=2, seed=s).details["classes"]
        for s in (0, 1)
    ]
    assert not torch.equal(*draws)


def test_a_model_of_one_class_is_refused():
    with pytest.raises(UsageError, match="one class"):
        xplain.attribute(toys.classifier(toys.small_net(1, classes=1)), X, "agi")


# ------------------------------------------------------------------------- cost


def out_of_reach() -> xplain.Classifier:
    """Classes 0, 1, 3 and 4 never win."""
    net = toys.small_net(1)
    net.head.bias.data[2] += 1000
    return toys.with_pixels(net)[0]


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_costs_one_forward_and_two_backwards_a_class_and_step_in_one_call_a_step(variant):
    classifier = out_of_reach()
    rows = toys.watch(classifier)
    found = xplain.attribute(classifier, X, "agi", against=[0, 3, 4], steps=6, variant=variant, score="logit")
    assert (found.cost.forwards, found.cost.backwards) == (3 * 3 * 6, 2 * 3 * 3 * 6)
    assert METHODS.get("agi").cost(steps=6, classes=3, path="curve") == (3 * 6, 2 * 3 * 6)
    ends = [9, *([3, 9] if variant == "paper" else [])]  # where the last step led; the ends of a complete path
    assert rows == [3] + [9] * 6 + ends
    assert found.cost.checks == 3 + sum(ends)


def test_straight_costs_one_gradient_a_class_and_step_for_the_climb_and_one_for_the_line():
    found = xplain.attribute(out_of_reach(), X, "agi", against=[0, 3, 4], steps=6, path="straight", score="logit")
    assert (found.cost.forwards, found.cost.backwards) == (3 * 3 * 2 * 6, 3 * 3 * 2 * 6)
    assert METHODS.get("agi").cost(steps=6, classes=3, path="straight") == (3 * 2 * 6, 3 * 2 * 6)


def test_drawing_classes_costs_a_check_of_one_row():
    """3 rows for the targets, one for the number of classes, 6 for where the only step led."""
    classifier = out_of_reach()
    rows = toys.watch(classifier)
    found = xplain.attribute(classifier, X, "agi", classes=2, steps=1, score="logit")
    assert rows == [3, 1, 6, 6]
    assert (found.cost.forwards, found.cost.backwards, found.cost.checks) == (6, 12, 3 + 1 + 6)


@pytest.mark.parametrize(("method", "own"), [("agi", True), ("saliency", False)])
def test_the_networks_norms_are_its_own_as_rounding_is_amplified(method, own, monkeypatch):
    """Other methods run with the norms folded into the convolutions."""
    norm, calls = torch.nn.functional.batch_norm, []

    def noted(*args, **kwargs):
        calls.append(1)
        return norm(*args, **kwargs)

    xplain.attribute(CLASSIFIER, X, method, target=TARGETS)  # makes the working copies
    monkeypatch.setattr(torch.nn.functional, "batch_norm", noted)
    xplain.attribute(CLASSIFIER, X, method, target=TARGETS)
    assert bool(calls) == own


def test_paths_that_arrived_cost_nothing_more():
    """J steps take J + 1 gradients, unless the limit came first."""
    false = torch.tensor([[0, 3], [2, 3], [3, 1]])
    found = xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, against=false, variant="paper", steps=8)
    taken = found.details["steps"]
    assert taken[1].tolist() == [0, 2]
    assert int(taken.max()) < 8
    assert found.cost.forwards == int((taken + 1).sum())
    assert found.cost.backwards == 2 * found.cost.forwards


@pytest.mark.parametrize(("steps", "reached"), [(1, False), (2, False), (3, True), (4, True)])
def test_the_warning_is_given_when_no_false_class_was_reached(steps, reached):
    """A margin of two and a half steps is used up by the third."""
    gain = 0.002 * float(((WEIGHT[1] - WEIGHT[0]) * WEIGHT[1].sign()).sum())
    found = xplain.attribute(
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
    assert toys.warned(found, f"no false class was reached within {steps} steps") == [not reached]
