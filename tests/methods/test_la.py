"""Tests of LA: against a literal version for one image, and closed forms."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference.la import la
from xplain.core.errors import UsageError

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
AGAINST = torch.tensor([[0, 3], [2, 4], [3, 1]])
TARGETS = [2, 0, 4]


@pytest.mark.parametrize("share", [0.05, 0.4])
@pytest.mark.parametrize("score", ["prob", "logit"])
@pytest.mark.parametrize("batch_size", ["auto", 4])
def test_la_equals_reference(batch_size, score, share):
    attribution = xplain.attribute(
        CLASSIFIER, X, "la", target=TARGETS, against=AGAINST, score=score, share=share, steps=4, batch_size=batch_size
    )
    make = gradients.SCORES[score]
    for k, image in enumerate(X):
        false = [make(NETWORK, index) for index in AGAINST[k].tolist()]
        toys.assert_same(attribution.values[k], la(make(NETWORK, TARGETS[k]), false, image, share, 4))


def test_la_draws_classes_per_image():
    attribution = xplain.attribute(CLASSIFIER, X, "la", target=TARGETS, steps=1, classes=4)
    assert attribution.details["classes"].shape == (3, 3)
    for drawn, target in zip(attribution.details["classes"].tolist(), TARGETS, strict=True):
        assert len({*drawn, target}) == 4
    alone = xplain.attribute(CLASSIFIER, X[1:2], "la", target=TARGETS[1], steps=1, classes=4)
    toys.assert_same(alone.values[0], attribution.values[1])
    assert len(xplain.attribute(CLASSIFIER, X, "la", steps=1).details["classes"][0]) == 4  # all other classes


def test_la_black_values_get_zero():
    x = X.clone()
    x[:, :, 2:4] = 0
    values = xplain.attribute(CLASSIFIER, x, "la", target=TARGETS, steps=3).values
    assert not values[:, :, 2:4].any()
    assert values[:, :, 5:].any()


def test_la_small_share_is_first_order():
    """For r → 0 all gradients equal those at the image: φ = T r ⊙ (|g_t| - Σ_i g_t sign g_i)."""
    values = xplain.attribute(CLASSIFIER, X, "la", target=TARGETS, against=AGAINST, share=1e-7, steps=3).values
    for k, image in enumerate(X):
        gradient = gradients.gradient(gradients.probability(NETWORK, TARGETS[k]), image)
        signs = [gradients.gradient(gradients.probability(NETWORK, int(i)), image).sign() for i in AGAINST[k]]
        expected = 3 * 1e-7 * image * (gradient.abs() - gradient * sum(signs))
        torch.testing.assert_close(values[k], expected, rtol=1e-3, atol=1e-12)


def test_la_two_classes_is_non_negative():
    """∇p_2 = -∇p_1: every displacement lowers the target."""
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64) / 10
    values = xplain.attribute(toys.classifier(toys.Linear(weight)), X, "la", target=0, steps=4).values
    assert values.min() >= 0
    assert values.max() > 0


def test_la_rejects_model_with_one_class():
    model = toys.classifier(toys.Linear(torch.randn(1, 3, 8, 10, dtype=torch.float64)))
    with pytest.raises(UsageError, match="at least two classes"):
        xplain.attribute(model, X, "la")


def test_la_cost():
    cost = xplain.attribute(CLASSIFIER, X, "la", steps=3, classes=4).cost
    assert (cost.forwards, cost.backwards) == (3 * 4 * 3, 3 * 7 * 3)
