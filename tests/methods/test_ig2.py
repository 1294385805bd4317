"""Tests of IG2: against its definition, closed forms, and the choice of references."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import ig2 as reference
from xplain.core.errors import InputError, UsageError
from xplain.core.rng import Streams

NET = toys.small_net(1, scale=15.0)
CLASSIFIER, NETWORK = toys.with_pixels(NET)
X = toys.images(3)
TARGETS = [2, 0, 3]
BASELINES = torch.cat([toys.images(5, seed=7), toys.images(5, seed=8) ** 3])


def embed(images: torch.Tensor) -> torch.Tensor:
    """Return the input of the head."""
    x = NET.pool(NET.act1(NET.norm1(NET.conv1(toys.normalise(images)))))
    return NET.act2(NET.conv2(x)).mean(dim=(2, 3))


def choose(target: int, image: int, count: int) -> list[torch.Tensor]:
    """Return the baselines of other classes with the smallest random numbers."""
    u = Streams.of(X, 0, "ig2").uniform(torch.zeros(1), (len(BASELINES),), torch.float64)[image, 0]
    usable = [r for r, logits in enumerate(NETWORK(BASELINES)) if int(logits.argmax()) != target]
    return [BASELINES[r] for r in sorted(usable, key=lambda r: float(u[r]))[:count]]


@pytest.mark.parametrize("batch_size", ["auto", 2])
@pytest.mark.parametrize("score", ["logit", "prob"])
def test_ig2_equals_reference(score, batch_size):
    settings = {"steps": 4, "step_size": 0.3, "references_per_image": 2, "batch_size": batch_size}
    attribution = xplain.attribute(CLASSIFIER, X, "ig2", target=TARGETS, score=score, baselines=BASELINES, **settings)
    for i, target in enumerate(TARGETS):
        f, goals = gradients.SCORES[score](NETWORK, target), choose(target, i, 2)
        results = [reference.ig2(f, embed, X[i], goal, 4, 0.3) for goal in goals]
        toys.assert_same(attribution.values[i], (results[0][0] + results[1][0]) / 2, rtol=1e-8)
        shares = [
            ((embed(path[3][None]) - embed(goal[None])).norm() / (embed(path[0][None]) - embed(goal[None])).norm())
            for (_, path), goal in zip(results, goals, strict=True)
        ]
        toys.assert_same(attribution.details["distance_left"][i], sum(shares).detach() / 2, rtol=1e-8)


def test_ig2_with_noise_equals_reference():
    values = xplain.attribute(
        CLASSIFIER, X, "ig2", target=TARGETS, steps=3, step_size=0.5, references_per_image=2
    ).values
    noise = Streams.of(X, 0, "ig2").uniform(torch.arange(2), (3, 8, 10), torch.float64)
    for i, target in enumerate(TARGETS):
        f = gradients.logit(NETWORK, target)
        maps = [reference.ig2(f, embed, X[i], goal, 3, 0.5)[0] for goal in noise[i]]
        toys.assert_same(values[i], (maps[0] + maps[1]) / 2, rtol=1e-8)


def test_ig2_path_stays_in_box_and_approaches_reference():
    """For small steps: moves of at most η, points in [0, 1], and falling distances."""
    f, goal = gradients.logit(NETWORK, 2), choose(2, 0, 1)[0]
    _, path = reference.ig2(f, embed, X[0], goal, 30, 0.02)
    points = torch.stack(path)
    distances = (embed(points) - embed(goal[None])).norm(dim=1)
    assert bool((distances.diff() < 0).all())
    assert float(points.diff(dim=0).flatten(1).norm(dim=1).max()) <= 0.02 + 1e-12
    assert 0 <= float(points.min()) <= float(points.max()) <= 1


class Headed(torch.nn.Module):
    """Logits W h of an embedding h = A x."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.body = torch.nn.Linear(240, 4, bias=False).double()
        self.head = torch.nn.Linear(4, 2, bias=False).double()
        self.body.weight.data = torch.randn(4, 240, dtype=torch.float64, generator=generator)
        self.head.weight.data = torch.randn(2, 4, dtype=torch.float64, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.flatten(1)))


def test_ig2_sum_approaches_change_of_score():
    """The error of the left rule is proportional to η, at the same length of the path."""
    model = Headed()
    f, goal = gradients.probability(model, 1), X[1]
    errors = []
    for steps in (10, 100):
        total, path = reference.ig2(f, lambda x: model.body(x.flatten(1)), X[0], goal, steps, 0.2 / steps)
        change = (f(path[0]) - f(path[-1])).item()
        errors.append(abs(total.sum().item() - change) / abs(change))
    assert errors[0] > 7 * errors[1]
    assert errors[1] < 0.05


def test_ig2_linear_model_closed_form():
    """φ = w ⊙ (x - x_1), x_1 = x - η Aᵀ A (x - r) / ‖Aᵀ A (x - r)‖."""
    model = Headed()
    x, black = toys.images(1), torch.zeros(1, 3, 8, 10, dtype=torch.float64)
    settings = {"steps": 1, "step_size": 0.01, "baselines": black}
    values = xplain.attribute(toys.classifier(model), x, "ig2", target=1, **settings).values
    body, head = model.body.weight.detach(), model.head.weight.detach()
    direction = body.T @ (body @ x.flatten())
    weight = head[1] @ body
    toys.assert_same(values.flatten(), weight * 0.01 * direction / direction.norm(), rtol=1e-9)


def test_ig2_of_its_reference_is_zero():
    """Black logits are equal, so that the predicted class of the reference is 0, which is not the target."""
    black = torch.zeros(1, 3, 8, 10, dtype=torch.float64)
    attribution = xplain.attribute(toys.classifier(Headed()), black, "ig2", target=1, steps=3, baselines=black)
    assert float(attribution.values.abs().max()) == 0.0
    assert attribution.details["distance_left"].tolist() == [0.0]


def test_ig2_cost():
    settings = {"target": TARGETS, "steps": 5, "references_per_image": 2}
    cost = xplain.attribute(CLASSIFIER, X, "ig2", **settings).cost
    assert (cost.forwards, cost.backwards) == (3 * 2 * (5 + 1), 3 * 2 * 5 * 2)
    cost = xplain.attribute(CLASSIFIER, X, "ig2", baselines=BASELINES, **settings).cost
    assert (cost.forwards, cost.backwards) == (3 * 2 * 5, 3 * 2 * 5 * 2)
    assert cost.checks == len(BASELINES) + 3  # and the prediction


def test_ig2_rejects_what_is_undefined():
    with pytest.raises(InputError, match="all baselines are predicted as the explained class"):
        xplain.attribute(CLASSIFIER, X[:1], "ig2", baselines=X[:1])
    with pytest.raises(InputError, match="baselines of shape"):
        xplain.attribute(CLASSIFIER, X, "ig2", baselines=BASELINES[..., :-1])
    model = toys.Linear(torch.ones(2, 3, 8, 10, dtype=torch.float64))
    with pytest.raises(UsageError, match="ig2 requires a network with a linear layer"):
        xplain.attribute(toys.classifier(model), X, "ig2", steps=1)
