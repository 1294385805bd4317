"""DGA: Algorithm 1 with counted ranks, in normalized units and in pixels; masks and ties."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import dga as reference
from tests.reference import gradients
from tests.reference import uniform_fullgrad as ufg

NET = toys.small_net(1, scale=15.0)
CLASSIFIER, NETWORK = toys.with_pixels(NET)
X = toys.images(2)
TARGETS = [2, 0]


def algorithm_1(image, target, baseline, local, **settings):
    """Return Algorithm 1 with the mean color (normalized input) or black (pixels) as zero."""
    mean = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None]
    std = torch.tensor(toys.STD, dtype=torch.float64)[:, None, None]
    if baseline == "mean":
        image = toys.normalise(image)
        maps = {
            "ufg": lambda u: ufg.uniform_fullgrad(NET, u, target),
            "gxi": lambda u: gradients.input_x_gradient(gradients.logit(NET, target), u),
        }
    else:
        maps = {
            "ufg": lambda x: ufg.uniform_fullgrad_of_pixels(NET, mean, std, x, target),
            "gxi": lambda x: gradients.input_x_gradient(gradients.logit(NETWORK, target), x),
        }
    return reference.dga(maps[local], image, **settings)[0]


def check_against_algorithm_1(baseline="mean", local="ufg", batch_size="auto", **settings):
    settings = {"steps": 5, "quantile": 0.9} | settings
    values = xplain.attribute(
        CLASSIFIER, X, "dga", target=TARGETS, baseline=baseline, local=local, batch_size=batch_size, **settings
    ).values
    for value, image, target in zip(values, X, TARGETS, strict=True):
        toys.assert_same(value, algorithm_1(image, target, baseline, local, **settings))


@pytest.mark.parametrize("start", ["include", "exclude"])
@pytest.mark.parametrize("masks", ["both", "wc", "epc"])
@pytest.mark.parametrize("local", ["ufg", "gxi"])
def test_dga_equals_algorithm_1(local, masks, start):
    check_against_algorithm_1(local=local, masks=masks, start=start)


@pytest.mark.parametrize("masks", ["both", "wc", "epc"])
@pytest.mark.parametrize("local", ["ufg", "gxi"])
def test_black_baseline_equals_algorithm_1(local, masks):
    check_against_algorithm_1("black", local, masks=masks)


@pytest.mark.parametrize("quantile", [0.0, 0.301, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_quantiles_and_steps_equal_algorithm_1(steps, quantile):
    check_against_algorithm_1(steps=steps, quantile=quantile)


def test_single_row_batches_equal_algorithm_1():
    check_against_algorithm_1(batch_size=1)


def test_reference_masks_inputs_as_in_paper():
    """The inputs of the reference: x̃(0) = x, x̃(1) = x without its top tenth, and x̃(N) is not empty."""
    image = toys.normalise(X[0])
    local = lambda u: gradients.input_x_gradient(gradients.logit(NET, 2), u)  # noqa: E731
    _, inputs = reference.dga(local, image, steps=4, quantile=0.9)
    values = local(image).flatten()
    top = values.argsort(descending=True)[:24]
    assert torch.equal(inputs[0], image)
    assert sorted((inputs[1].flatten() == 0).nonzero().flatten().tolist()) == sorted(top.tolist())
    assert int((inputs[4] != 0).sum()) > 0
    assert len(inputs) == 5


def linear() -> tuple[xplain.Classifier, torch.Tensor]:
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return toys.classifier(toys.Linear(weight, torch.tensor([0.0, 12.0], dtype=torch.float64))), weight[1]


def test_one_step_without_masks_doubles_map():
    """q = 1 and N = 1: x̃(1) = x, so the positive part of w ⊙ x + b / d counts twice."""
    model, weight = linear()
    positive = (weight * X + 12.0 / 240).clamp(min=0)
    result = xplain.attribute(model, X, "dga", target=1, steps=1, quantile=1.0)
    toys.assert_same(result.values, 2 * positive, rtol=1e-11)
    assert result.cost.forwards == 2 * 2
    toys.assert_same(
        xplain.attribute(model, X, "dga", target=1, steps=1, quantile=1.0, start="exclude").values, positive, rtol=1e-11
    )


def test_epc_drops_extreme_tenth():
    """q = 0.9 and N = 1: the 24 highest of 240 values are zero in x̃(1), where their attribution is b / d."""
    model, weight = linear()
    values = weight * X + 12.0 / 240
    result = xplain.attribute(model, X, "dga", target=1, steps=1, start="exclude").values
    for value, local in zip(result, values, strict=True):
        flat = local.flatten().clone()
        flat[flat.argsort(descending=True)[:24]] = 12.0 / 240
        toys.assert_same(value.flatten(), flat.clamp(min=0), rtol=1e-11)


def test_wc_drops_weak_half():
    """masks=wc and N = 2: x̃(2) lacks the 120 weakest values of x̃(1) = x, where w ⊙ x̃ is zero."""
    model, weight = linear()
    values = weight * X
    result = xplain.attribute(model, X, "dga", target=1, steps=2, masks="wc", local="gxi").values
    for value, local in zip(result, values, strict=True):
        flat = local.flatten()
        last = flat.clone()
        last[flat.abs().argsort()[:120]] = 0.0
        toys.assert_same(value.flatten(), 2 * flat.clamp(min=0) + last.clamp(min=0), rtol=1e-11)


def test_tied_values_drop_together():
    """A constant product: all 240 values tie, so all are extreme, as each share exceeds 0.9."""
    model = toys.classifier(toys.Linear(torch.ones(2, 3, 8, 10, dtype=torch.float64)))
    x = torch.full((1, 3, 8, 10), 0.5, dtype=torch.float64)
    result = xplain.attribute(model, x, "dga", target=0, steps=1, local="gxi").values
    toys.assert_same(result, x, rtol=1e-12)  # φ_0 = 0.5 and φ_1 = 0, for x̃(1) is empty


@pytest.mark.parametrize("local", ["ufg", "gxi"])
def test_dga_is_never_negative(local):
    values = xplain.attribute(CLASSIFIER, X, "dga", target=TARGETS, steps=6, local=local).values
    assert float(values.min()) == 0.0 < float(values.max())


def test_cost_is_one_gradient_per_input():
    classifier, _ = toys.with_pixels(NET)
    rows = toys.watch(classifier)
    cost = xplain.attribute(classifier, X, "dga", steps=6).cost
    assert (cost.forwards, cost.backwards, cost.checks) == (14, 14, 2)
    assert rows == [2] * 8
