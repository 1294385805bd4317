"""Sensitivity(a): a value that alone changes the score from the baseline's must not get zero.

The witnesses are 1 - ReLU(1 - 20 x) of one value x, its negative, and a shift of it: flat at the image, where x = 1.
"""

import pytest

import xplain
import xplain.methods  # registers the methods
from tests.helpers import saturation
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS, MethodSpec

X = saturation.image()
ZERO = 1e-9
REGIONS = {"kernel-shap": 80}  # the pixels with which a value may share its credit
every_method = pytest.mark.parametrize("spec", list(METHODS), ids=lambda spec: spec.name)


def credit(spec: MethodSpec, witness: str) -> float:
    """Return the attribution of the value that matters, zero if it is a billionth of the largest or less; black is the baseline."""
    settings = {"baseline": "black"} if "baseline" in spec.parameters else {}
    values = xplain.attribute(saturation.WITNESSES[witness], X, spec.name, target=0, **settings).values[0]
    channel, row, column = saturation.POSITION
    value = float(values[channel if len(values) > 1 else 0, row, column])
    return 0.0 if abs(value) <= ZERO * max(1.0, float(values.abs().max())) else value


def test_witnesses_are_flat_where_score_differs():
    changes = {}
    for name, classifier in saturation.WITNESSES.items():
        logits = classifier(X).detach() - classifier(0 * X).detach()
        changes[name] = float(logits[0, 0])
        assert not xplain.attribute(classifier, X, "saliency", target=0).values.any()
    assert changes == {"rising": 1.0, "falling": -1.0, "negative": 1.0}


@every_method
def test_sensitivity_is_listed_once(spec):
    """A new method lists "sensitivity-a" under ``axioms``, ``violates``, or ``undecided`` with the reason."""
    lists = (spec.axioms, spec.violates, spec.undecided)
    assert sum("sensitivity-a" in names for names in lists) == 1


@pytest.mark.parametrize("witness", saturation.WITNESSES)
@pytest.mark.parametrize("name", [spec.name for spec in METHODS if "sensitivity-a" in spec.axioms])
def test_sensitivity_holds_on_witness(name, witness):
    """With the sign of the change, and at least a twentieth of it per pixel that shares the credit."""
    change = {"rising": 1.0, "falling": -1.0, "negative": 1.0}[witness]
    assert credit(METHODS.get(name), witness) * change >= 0.05 / REGIONS.get(name, 1)


@every_method
def test_sensitivity_is_violated_on_witness(spec):
    """A method that is listed as violating gives zero on some witness, and no method gives zero on all without being listed."""
    try:
        credits = {witness: credit(spec, witness) for witness in saturation.WITNESSES}
    except UsageError as refusal:
        assert "requires attention" in str(refusal)  # noqa: PT017
        assert spec.undecided["sensitivity-a"] == "requires attention"
        return
    if "sensitivity-a" in spec.violates:
        assert 0.0 in credits.values()
    elif spec.undecided.get("sensitivity-a") != "no single baseline":  # noise, where the score is that of the image
        assert 0.0 not in credits.values()
