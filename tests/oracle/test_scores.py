"""The scores of each kind of output, from their definitions."""

import math

import pytest
import torch

from xplain.core.errors import UsageError
from xplain.models.outputs import OutputKind
from xplain.oracle.scores import available_score, check_score, compute_scores

SIGMOID, BINARY, VALUES = (OutputKind(name) for name in ("sigmoid", "binary", "none"))
LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
RAW = torch.tensor([[-1.5, 1.5], [0.4, -0.4]], dtype=torch.float64)  # (-z, z) of z = 1.5 and -0.4
Y = torch.tensor([0, 2])


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("logit", [1.0, -1.0]),
        ("prob", [sigmoid(1), sigmoid(-1)]),
        ("log-prob", [math.log(sigmoid(1)), math.log(sigmoid(-1))]),
        ("margin", [1.0, -1.0]),
    ],
)
def test_sigmoid_scores(kind, expected):
    assert compute_scores(LOGITS, Y, kind, output=SIGMOID).tolist() == pytest.approx(expected, abs=1e-15)


def test_sigmoid_margin_is_distance_to_threshold():
    kind = OutputKind("sigmoid", threshold=(0.8, 0.5, 0.1))
    expected = [1 - math.log(4), -1 + math.log(9)]
    assert compute_scores(LOGITS, Y, "margin", output=kind).tolist() == pytest.approx(expected, abs=1e-15)
    both = compute_scores(LOGITS, torch.tensor([[0, 2], [0, 2]]), "margin", output=kind)
    assert both[0, 0] == pytest.approx(expected[0])
    assert both[1, 1] == pytest.approx(expected[1])
    common = compute_scores(LOGITS, Y, "margin", output=OutputKind("sigmoid", threshold=0.8))
    assert common.tolist() == pytest.approx([1 - math.log(4), -1 - math.log(4)])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("logit", 1.0 - (-2.0 + 0.5) / 2),
        ("prob", sigmoid(1) - (sigmoid(-2) + sigmoid(0.5)) / 2),
        ("log-prob", math.log(sigmoid(1)) - (math.log(sigmoid(-2)) + math.log(sigmoid(0.5))) / 2),
        ("margin", 0.5),
    ],
)
def test_sigmoid_scores_with_contrasts(kind, expected):
    score = compute_scores(LOGITS[:1], Y[:1], kind, torch.tensor([[1, 2]]), SIGMOID)
    assert score.item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("with_contrast", [False, True])
@pytest.mark.parametrize("y", [0, 1])
def test_binary_scores(with_contrast, y):
    classes = torch.tensor([y, y])
    against = 1 - classes[:, None] if with_contrast else None
    z = RAW[:, y].tolist()

    def scores(kind):
        return compute_scores(RAW, classes, kind, against, BINARY).tolist()

    assert scores("logit") == z  # not 2 z: it already compares the class with the other
    assert scores("margin") == z
    prob = [2 * sigmoid(v) - 1 if with_contrast else sigmoid(v) for v in z]
    assert scores("prob") == pytest.approx(prob, abs=1e-15)
    log_prob = z if with_contrast else [math.log(sigmoid(v)) for v in z]
    assert scores("log-prob") == pytest.approx(log_prob, abs=1e-15)


def test_values_have_logits_and_margins_only():
    assert compute_scores(LOGITS, Y, "logit", output=VALUES).tolist() == [1.0, -1.0]
    assert compute_scores(LOGITS, Y, "margin", output=VALUES).tolist() == [0.5, -4.0]
    against = torch.tensor([[1, 2], [0, 1]])
    assert compute_scores(LOGITS, Y, "logit", against, VALUES).tolist() == [1.75, -2.5]
    for kind in ("prob", "log-prob"):
        with pytest.raises(UsageError) as refusal:
            compute_scores(LOGITS, Y, kind, output=VALUES)
        assert str(refusal.value) == (
            f"score={kind} is not defined, because the model returns values, not probabilities; "
            "use the score logit, or --activation sigmoid if the output is a logit"
        )
    with pytest.raises(UsageError, match=r"^score=margin is not defined, because the model returns a single value; "):
        compute_scores(LOGITS[:, :1], Y * 0, "margin", output=VALUES)


def test_available_score_replaces_probabilities_of_values():
    assert [available_score(kind, VALUES) for kind in ("logit", "prob", "log-prob", "margin")] == [
        "logit", "logit", "logit", "margin",
    ]  # fmt: skip
    assert [available_score(kind, BINARY) for kind in ("prob", "log-prob")] == ["prob", "log-prob"]
    check_score("margin", VALUES, 2)
    check_score("margin", VALUES)  # the number of outputs is unknown


@pytest.mark.parametrize("z", [200.0, -200.0, 90.0])
def test_saturated_log_probability_is_finite(z):
    logits = torch.tensor([[-z, z]], dtype=torch.float32, requires_grad=True)
    (score,) = compute_scores(logits, torch.tensor([1]), "log-prob", output=BINARY)
    (slopes,) = torch.autograd.grad(score, logits)
    assert score.item() == pytest.approx(min(z, 0.0), abs=1e-30)
    assert slopes.tolist() == [[0.0, 1.0 if z < 0 else pytest.approx(0.0, abs=1e-38)]]
    (score,) = compute_scores(logits, torch.tensor([1]), "prob", output=BINARY)
    assert torch.autograd.grad(score, logits)[0].abs().max() < 1e-38
