"""Stop rules, false classes and closed forms of methods for labels, one logit and values."""

import math

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import linear, value, with_output
from xplain.core.errors import ModelNote, UsageError

X = toys.images(3)
WEIGHT = torch.randn(3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
RAW = torch.einsum("bchw,chw->b", X, WEIGHT)
BIAS = -float(RAW.median())
NO_PATH = "the image is not classified as the target: no path leads away from it"
NO_FALSE_CLASS = "the model finds every label in the image: there is no false class to move to"
SATURATED = "the probability is saturated, and its gradient is 0; use the score logit"
VALUE_WITHOUT_END = "the model returns a value without a threshold: all steps were taken"
TRANSFORMS = {
    "logit": lambda z: z,
    "margin": lambda z: z,
    "prob": torch.sigmoid,
    "log-prob": torch.nn.functional.logsigmoid,
}


@pytest.mark.parametrize("score", TRANSFORMS)
@pytest.mark.parametrize("target", [0, 1])
def test_integrated_gradients_of_one_logit(score, target):
    """w ⊙ x (f(s raw) - f(s raw')) / (raw - raw')."""
    classifier, sign = with_output(linear(WEIGHT, 0.3), "binary"), 2 * target - 1
    result = xplain.attribute(classifier, X, "ig", target=target, score=score, steps=30)
    raw, start = RAW + 0.3, 0.3
    change = TRANSFORMS[score](sign * raw) - TRANSFORMS[score](torch.tensor(sign * start, dtype=torch.float64))
    expected = X * WEIGHT * (change / (raw - start))[:, None, None, None]
    toys.assert_same(result.values, expected, rtol=1e-7)
    toys.assert_same(result.expected, change, rtol=1e-7)


def test_saliency_of_one_logit():
    classifier = with_output(linear(WEIGHT), "binary")
    slope = torch.sigmoid(RAW) * torch.sigmoid(-RAW)
    for target, sign in ((0, -1), (1, 1)):
        values = xplain.attribute(classifier, X, "saliency", target=target, score="prob").values
        toys.assert_same(values, sign * slope[:, None, None, None] * WEIGHT)


LABELS = toys.Linear(torch.zeros(3, 3, 8, 10, dtype=torch.float64), torch.full((3,), -6.0, dtype=torch.float64))
for label in range(3):
    LABELS.weight.data[label, :, :, 3 * label : 3 * label + 3] = 0.05 * (label + 1)


@pytest.mark.parametrize("method", ["neflag", "ig", "occlusion", "mfaba", "la", "attexplore"])
def test_labels_with_disjoint_supports(method):
    """The map of a label depends on its own pixels only. As a softmax it would depend on all."""
    settings = {"occlusion": {"window": 1, "stride": 1}}.get(method, {})
    if method == "attexplore":
        settings = {"diversity": 0.0, "smooth": False, "steps": 3, "samples": 4}
    outside = torch.ones(10, dtype=torch.bool)
    outside[3:6] = False
    shares = {}
    for activation in ("sigmoid", "softmax"):
        result = xplain.attribute(with_output(LABELS, activation), X, method, target=1, score="prob", **settings)
        size = result.values.abs()
        shares[activation] = float(size[..., outside].sum() / size.sum())
    assert shares["sigmoid"] < 1e-12
    assert shares["softmax"] > 0.1


def test_agi_draws_labels_that_are_not_present():
    bias = torch.tensor([-99.0, 99.0, -99.0, 99.0, -99.0], dtype=torch.float64)
    net = toys.Linear(torch.zeros(5, 3, 8, 10, dtype=torch.float64), bias)
    result = xplain.attribute(with_output(net, "sigmoid"), X, "agi", target=1, steps=2)
    assert result.details["classes"].sort(dim=1).values.tolist() == [[-1, 0, 2, 4]] * 3
    own = xplain.attribute(with_output(net, "sigmoid"), X, "agi", target=0, steps=2)
    assert own.details["classes"].sort(dim=1).values.tolist() == [[-1, -1, 2, 4]] * 3


def test_agi_stops_when_the_label_is_present():
    net = toys.Linear(torch.stack([torch.zeros_like(WEIGHT), WEIGHT]), torch.tensor([5.0, 0.0], dtype=torch.float64))
    net.bias.data[1] = -float(RAW.max()) - 0.1  # label 1 is absent
    classifier = with_output(net, "sigmoid", threshold=0.6)
    result = xplain.attribute(classifier, X, "agi", target=0, variant="paper", step_size=0.01, steps=30)
    gain = 0.01 * WEIGHT.abs().sum()  # per step; clamping does not matter for a few steps
    steps = ((math.log(0.6 / 0.4) - RAW - net.bias.data[1]) / gain).ceil()
    assert result.details["steps"][:, 0].tolist() == steps.tolist()
    assert not any(bool(mask.any()) for text, mask in result.flags.items() if "zero" not in text)


@pytest.mark.parametrize("path", ["curve", "straight"])
def test_agi_without_a_false_class_is_zero_with_a_flag(path):
    net = toys.Linear(torch.stack([WEIGHT, WEIGHT]), torch.tensor([99.0, 99.0], dtype=torch.float64))
    result = xplain.attribute(with_output(net, "sigmoid"), X, "agi", target=0, path=path)
    assert not result.values.any()
    assert result.flags[NO_FALSE_CLASS].tolist() == [True] * 3
    assert not result.flags[NO_PATH].any()


@pytest.mark.parametrize("activation", ["binary", "softmax"])
def test_agi_of_an_image_of_the_other_class_is_flagged(activation):
    classifier = with_output(linear(WEIGHT, BIAS), activation)
    decided = (RAW + BIAS > 0).long()
    result = xplain.attribute(classifier, X, "agi", target=1, steps=5)
    is_other = decided == 0
    assert result.flags[NO_PATH].tolist() == is_other.tolist()
    assert result.flags["the attack reached no false class within 5 steps"].sum() < 3
    assert [not values.any() for values in result.values] == is_other.tolist()
    own = xplain.attribute(classifier, X, "agi", target=decided, steps=5)
    assert not own.flags[NO_PATH].any()
    assert own.values.flatten(1).any(dim=1).all()


def test_mfaba_of_an_image_of_the_other_class_is_flagged():
    classifier = with_output(linear(WEIGHT, BIAS), "binary")
    result = xplain.attribute(classifier, X, "mfaba", target=1, steps=5)
    is_other = RAW + BIAS <= 0
    assert result.flags[NO_PATH].tolist() == is_other.tolist()
    assert (result.details["steps"] == 1)[is_other].all()


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("activation", ["binary", "sigmoid"])
def test_mfaba_ends_beyond_the_threshold(activation, threshold):
    """Each step lowers raw by step_size ‖w‖, until raw is below log(p / (1 - p))."""
    edge = math.log(threshold / (1 - threshold))
    bias = edge - float(RAW.min()) + 0.2
    classifier = with_output(linear(WEIGHT, bias), activation, threshold=threshold)
    result = xplain.attribute(classifier, X, "mfaba", target=1, step_size=0.1, steps=50)
    steps = ((RAW + bias - edge) / (0.1 * WEIGHT.norm())).floor() + 1
    assert result.details["steps"].tolist() == steps.tolist()
    assert not result.flags["the predicted class did not change within 50 steps"].any()


@pytest.mark.parametrize(("activation", "threshold"), [("binary", 0.7), ("sigmoid", 0.3), ("none", 1.25)])
def test_boundary_ig_ends_at_the_threshold(activation, threshold):
    """The last point has raw within 1/1024 of a step below the threshold."""
    edge = threshold if activation == "none" else math.log(threshold / (1 - threshold))
    bias = edge - float(RAW.min()) + 0.2
    net, target = (value(WEIGHT, bias), 0) if activation == "none" else (linear(WEIGHT, bias), 1)
    classifier = with_output(net, activation, threshold=threshold)
    result = xplain.attribute(classifier, X, "boundary-ig", target=target, attack_step_size=0.01, score="logit")
    end = RAW + bias - result.expected
    step = 0.01 * WEIGHT.abs().sum()
    assert bool(((end < edge) & (end > edge - step / 1024 * 1.001)).all())


def test_mfaba_of_a_value():
    net = value(WEIGHT, 2.0 - float(RAW.min()))
    free = xplain.attribute(with_output(net, "none", 1), X, "mfaba", step_size=0.1, steps=6)
    assert free.details["steps"].tolist() == [6, 6, 6]
    assert free.flags[VALUE_WITHOUT_END].tolist() == [True] * 3
    bound = xplain.attribute(with_output(net, "none", 1, threshold=1.9), X, "mfaba", step_size=0.1, steps=60)
    steps = ((RAW + 2.0 - RAW.min() - 1.9) / (0.1 * WEIGHT.norm())).floor() + 1
    assert bound.details["steps"].tolist() == steps.tolist()
    assert VALUE_WITHOUT_END not in bound.flags
    below = xplain.attribute(with_output(net, "none", 1, threshold=99.0), X, "mfaba", step_size=0.1, steps=4)
    assert below.flags["the predicted class did not change within 4 steps"].tolist() == [True] * 3


@pytest.mark.parametrize("method", ["agi", "la"])
@pytest.mark.parametrize("options", [{}, {"against": 1}])
def test_values_have_no_false_classes(method, options):
    net = toys.Linear(torch.stack([WEIGHT, -WEIGHT]))
    classifier = with_output(net, "none", 2, threshold=0.0)
    with pytest.raises(UsageError) as refusal:
        xplain.attribute(classifier, X, method, target=0, **options)
    assert str(refusal.value) == (
        f"{method} requires false classes, but the model returns values; use integrated-gradients, smoothgrad or occlusion"
    )


def test_boundary_ig_of_a_value_requires_a_threshold():
    with pytest.raises(UsageError) as refusal:
        xplain.attribute(with_output(value(WEIGHT), "none", 1), X, "boundary-ig")
    assert str(refusal.value) == (
        "boundary-ig requires a decision, but the model returns a value without a threshold; "
        "set the threshold of the model, or use integrated-gradients"
    )


@pytest.mark.parametrize("method", ["neflag", "rise", "isa"])
def test_values_replace_probabilities_with_a_note(method):
    classifier = with_output(value(WEIGHT), "none", 1)
    settings = {"neflag": {"samples": 3}, "rise": {"masks": 8}, "isa": {"block": 100}}[method]
    with pytest.warns(ModelNote, match=r"^the model returns values without probabilities; explaining the value of the"):
        result = xplain.attribute(classifier, X, method, **settings)
    explicit = xplain.attribute(classifier, X, method, score="logit", **settings)
    assert torch.equal(result.values, explicit.values)
    for score in ("prob", "log-prob"):
        with pytest.raises(UsageError, match=f"^score={score} is not defined, because the model returns values, "):
            xplain.attribute(classifier, X, method, score=score)


@pytest.mark.parametrize(
    ("bias", "score", "expected"),
    [(999.0, "prob", 1), (-999.0, "prob", 1), (999.0, "log-prob", 1), (-999.0, "log-prob", 0)],
)
def test_saturated_probabilities_are_flagged(bias, score, expected):
    classifier = with_output(linear(WEIGHT, bias), "binary")
    result = xplain.attribute(classifier, X, "saliency", target=1, score=score)
    assert result.flags[SATURATED].tolist() == [bool(expected)] * 3
    assert result.values.any().item() is not bool(expected)
    assert result.cost.checks == (6 if expected else 0)  # the method shares the pass of the prediction


def test_saturated_softmax_is_flagged():
    net = toys.Linear(torch.stack([WEIGHT, -WEIGHT]), torch.tensor([999.0, -999.0], dtype=torch.float64))
    result = xplain.attribute(with_output(net, "softmax"), X, "neflag", samples=2)
    assert result.flags[SATURATED].tolist() == [True] * 3


def test_zero_map_without_a_reason_is_flagged():
    net = toys.Linear(torch.zeros(2, 3, 8, 10, dtype=torch.float64))
    result = xplain.attribute(with_output(net, "sigmoid"), X, "saliency", score="prob")
    assert result.flags[SATURATED].tolist() == [False] * 3
    assert result.flags["the map is zero everywhere"].tolist() == [True] * 3
