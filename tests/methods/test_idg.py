"""Tests of IDG: against its definition, closed forms, and the division of nodes."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import idg as reference
from xplain.core.rng import Streams
from xplain.methods.idg import divide_nodes, place_nodes

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]


@pytest.mark.parametrize("batch_size", ["auto", 4])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("score", ["logit", "prob"])
def test_idg_equals_reference(score, adaptive, batch_size):
    settings = {"steps": 9, "intervals": 7, "adaptive": adaptive, "baseline": "uniform", "batch_size": batch_size}
    values = xplain.attribute(CLASSIFIER, X, "idg", target=TARGETS, score=score, **settings).values
    starts = Streams.of(X, 0, "idg").uniform(torch.zeros(1), (3, 8, 10), torch.float64)[:, 0]
    for i, target in enumerate(TARGETS):
        f = gradients.SCORES[score](NETWORK, target)
        counts = [1] * 9
        if adaptive:
            counts = reference.allocate(reference.changes_on_line(f, X[i], starts[i], 7), 9)
            assert counts != [1] * 9
        toys.assert_same(values[i], reference.idg(f, X[i], starts[i], counts), rtol=1e-8)


@pytest.mark.parametrize("adaptive", [True, False])
def test_idg_linear_model_closed_form(adaptive):
    """s = w · (x - x'): φ = s w ⊙ (x - x'), with the sum s²."""
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    settings = {"steps": 8, "intervals": 8, "adaptive": adaptive, "baseline": "white"}
    attribution = xplain.attribute(toys.classifier(toys.Linear(weight)), X, "idg", target=1, **settings)
    exact = weight[1] * (X - 1)
    slope = exact.sum(dim=(1, 2, 3))
    toys.assert_same(attribution.values, slope[:, None, None, None] * exact, rtol=1e-10)
    toys.assert_same(attribution.total, slope**2, rtol=1e-10)


@pytest.mark.parametrize("score", ["logit", "prob"])
def test_idg_sum_is_never_negative(score):
    """Σ φ = Σ w s², also where the score falls along the line."""
    attribution = xplain.attribute(CLASSIFIER, X, "idg", target=4, score=score, steps=10, intervals=10)
    starts, ends = CLASSIFIER(torch.zeros_like(X))[:, 4], CLASSIFIER(X)[:, 4]
    assert bool((ends < starts).any())
    assert attribution.expected is None
    assert float(attribution.total.min()) > 0.0


def test_idg_places_nodes_where_score_changes():
    """The score rises between a mean of 0.63 and one of 0.68, with slope 10: all nodes lie in the interval [0.6, 0.7]."""

    def ramp(x):
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([(10 * (mean - 0.63)).relu() - (10 * (mean - 0.68)).relu()] * 2, dim=1)

    x = torch.ones(1, 3, 8, 10, dtype=torch.float64)
    values = xplain.attribute(toys.classifier(toys.Function(ramp)), x, "idg", target=0, steps=20, intervals=10).values
    slope = 10.0
    share = 0.1 * 10 / 20  # of the nodes of the interval, half are within [0.63, 0.68]
    toys.assert_same(values.sum(), torch.tensor(slope**2 * share), rtol=1e-10)


def test_divide_nodes_closed_form():
    sizes = torch.tensor([[0.0, 5.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    assert divide_nodes(sizes, 7).tolist() == [[0, 4, 2, 1], [2, 2, 2, 1], [3, 2, 2, 0]]
    assert divide_nodes(sizes, 20).tolist() == [[0, 10, 6, 4], [5, 5, 5, 5], [7, 7, 6, 0]]


def test_place_nodes_closed_form():
    nodes, weights = place_nodes(torch.tensor([[2, 0, 1, 1], [0, 0, 0, 4]]))
    assert nodes.tolist() == [[1 / 16, 3 / 16, 5 / 8, 7 / 8], [25 / 32, 27 / 32, 29 / 32, 31 / 32]]
    assert weights.tolist() == [[1 / 8, 1 / 8, 1 / 4, 1 / 4], [1 / 16] * 4]


def test_idg_nodes_of_random_scores():
    """Nodes increase inside (0, 1), and the weights sum to the length of the intervals with nodes."""
    counts = divide_nodes(torch.rand(50, 30, generator=torch.Generator().manual_seed(1)) ** 4, 40)
    nodes, weights = place_nodes(counts)
    assert nodes.shape == (50, 40)
    assert bool((nodes.diff(dim=1) > 0).all())
    assert float(nodes.min()) > 0.0
    assert float(nodes.max()) < 1.0
    torch.testing.assert_close(weights.sum(dim=1), (counts > 0).sum(dim=1).double() / 30)
    assert int((counts == 0).sum()) > 100


def test_idg_of_constant_score_is_zero():
    model = toys.classifier(toys.Function(lambda x: torch.ones(len(x), 2, dtype=x.dtype) + 0 * x.sum()))
    assert xplain.attribute(model, X, "idg", target=0).values.tolist() == torch.zeros_like(X).tolist()


def test_idg_equals_package():
    """The package scales its maps to the difference of the score."""
    package = pytest.importorskip("integrated_decision_gradients.idg")
    values = xplain.attribute(CLASSIFIER, X, "idg", target=TARGETS, steps=20, adaptive=False).values
    for i, target in enumerate(TARGETS):
        image, black = X[i : i + 1], torch.zeros_like(X[i : i + 1])
        theirs = package.get_integrated_decision_gradients(
            NETWORK, image, black, target=target, n_steps=20, adaptive=False
        )
        change = (NETWORK(image) - NETWORK(black))[0, target].detach()
        toys.assert_same(theirs[0], values[i] * change / values[i].sum(), rtol=1e-4)
