"""Tests of direction=idgi of three path methods: against a literal version on the same paths, and closed forms."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import blur_ig, gradients, guided_ig
from tests.reference.idgi import idgi
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS
from xplain.core.rng import Streams
from xplain.methods._idgi import divide_by_squares

PATHS = {
    "ig": {"baseline": "uniform"},
    "guided-ig": {"baseline": "uniform", "max_distance": 0.1},
    "blur-ig": {"max_sigma": 5, "spacing": "linear"},
}
HOSTS = list(PATHS)
CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]
STEPS = 6


def start_of(method: str, image: int) -> torch.Tensor:
    streams = Streams.of(X, 0, METHODS.get(method).name)
    return streams.uniform(torch.zeros(1), (3, 8, 10), torch.float64)[image, 0]


def path_of(method: str, f: gradients.Scalar, image: int) -> list[torch.Tensor]:
    """Return the points x_0 .. x_n of a path, which starts at uniform noise or at the blurred image."""
    x = X[image]
    if method == "blur-ig":
        levels = [x.numpy() if k == 0 else blur_ig.blur(x.numpy(), 5.0 * k / STEPS) for k in range(STEPS, -1, -1)]
        return [torch.from_numpy(level) for level in levels]
    start = start_of(method, image)
    if method == "ig":
        return [start + k / STEPS * (x - start) for k in range(STEPS + 1)]
    points = []

    def record(point):
        points.append(torch.tensor(point))
        return gradients.gradient(f, points[-1]).numpy()

    guided_ig.guided_ig(x.numpy(), start.numpy(), record, STEPS, 0.25, 0.1)
    return [*points, x]


def explain(method: str, classifier: xplain.Classifier = CLASSIFIER, images: torch.Tensor = X, **settings):
    settings = PATHS[method] | {"steps": STEPS, "direction": "idgi"} | settings
    return xplain.attribute(classifier, images, method, **settings)


@pytest.mark.parametrize("batch_size", ["auto", 4])
@pytest.mark.parametrize("score", ["logit", "prob"])
@pytest.mark.parametrize("method", HOSTS)
def test_idgi_equals_reference(method, score, batch_size):
    """The points of an image are spread over two calls of 4 rows."""
    attribution = explain(method, target=TARGETS, score=score, batch_size=batch_size)
    for i, target in enumerate(TARGETS):
        f = gradients.SCORES[score](NETWORK, target)
        path = path_of(method, f, i)
        toys.assert_same(attribution.values[i], idgi(f, path), rtol=1e-8)
        toys.assert_same(attribution.expected[i], (f(path[-1]) - f(path[0])).detach())
    assert float(attribution.gap.abs().max()) < 1e-12 * float(attribution.values.abs().sum())


@pytest.mark.parametrize("method", HOSTS)
def test_idgi_linear_model_closed_form(method):
    """φ = w² / ‖w‖² (f(x) - f(x')), for every path."""
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    attribution = explain(method, toys.classifier(toys.Linear(weight)), target=1)
    share = weight[1] ** 2 / (weight[1] ** 2).sum()
    toys.assert_same(attribution.values, attribution.expected[:, None, None, None] * share, rtol=1e-10)
    assert float(attribution.expected.abs().min()) > 0.1


def test_idgi_single_step_closed_form():
    """n = 1: φ = (f(x) - f(x')) g(x')² / ‖g(x')‖²."""
    values = explain("ig", target=TARGETS, steps=1).values
    for i, target in enumerate(TARGETS):
        f, start = gradients.logit(NETWORK, target), start_of("ig", i)
        square = gradients.gradient(f, start) ** 2
        toys.assert_same(values[i], (f(X[i]) - f(start)).detach() * square / square.sum())


def test_idgi_values_have_one_sign_on_monotone_path():
    """The score Σ x³ increases from black to the image."""
    model = toys.classifier(toys.Function(lambda x: torch.stack([(x**3).sum(dim=(1, 2, 3))] * 2, dim=1)))
    values = explain("ig", model, target=0, baseline="black").values
    assert float(values.min()) > 0.0


def test_idgi_reports_steps_without_gradient():
    """The score 1 - ReLU(1 - 2x) is flat at white, from where the path to x = 0.1 starts: its first step gets no attribution."""
    model = toys.classifier(
        toys.Function(lambda x: torch.stack([1 - (1 - 2 * x.sum(dim=(1, 2, 3))).relu()] * 2, dim=1))
    )
    x = torch.full((1, 3, 1, 1), 0.1, dtype=torch.float64)
    attribution = explain("ig", model, x, target=0, steps=1, baseline="white")
    assert attribution.values.abs().max() == 0.0
    assert attribution.gap.tolist() == pytest.approx([0.4], abs=1e-12)  # f rises from 0.6 at x to 1 at white


def test_squares_of_small_gradients_do_not_vanish():
    """In float32, 1e-30 squared is 0."""
    gradient = torch.tensor([3e-30, 4e-30, 0.0]).reshape(1, 3, 1, 1)
    assert divide_by_squares(gradient).flatten().tolist() == pytest.approx([9 / 25, 16 / 25, 0.0])
    assert divide_by_squares(0 * gradient).flatten().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("method", HOSTS)
def test_idgi_costs_one_forward_pass_more(method):
    attribution, host = explain(method, target=TARGETS), explain(method, target=TARGETS, direction="none")
    assert (attribution.cost.forwards, attribution.cost.backwards) == (3 * (STEPS + 1), 3 * STEPS)
    assert host.cost.forwards == 3 * STEPS


@pytest.mark.parametrize("rule", ["midpoint", "right", "trapezoid"])
def test_idgi_rejects_rules_with_other_points(rule):
    with pytest.raises(UsageError, match=f"direction=idgi is not defined for rule={rule}; use rule=left"):
        explain("ig", rule=rule)


def test_idgi_rule_left_is_default():
    assert torch.equal(explain("ig", target=TARGETS, rule="left").values, explain("ig", target=TARGETS).values)
