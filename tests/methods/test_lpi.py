"""Tests of LPI: against its definition, closed forms, and the choice of references."""

import numpy as np
import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference.lpi import lpi
from xplain.core.errors import InputError, UsageError
from xplain.core.rng import Streams
from xplain.methods._clusters import cluster
from xplain.methods.lpi import choose_representatives

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]
BASELINES = torch.cat([toys.images(5, seed=7), toys.images(6, seed=8) ** 3])


def positions(count: int, steps: int) -> torch.Tensor:
    """Return the positions (B, count, steps) on the lines."""
    u = Streams.of(X, 0, "lpi").child("alpha").uniform(torch.arange(count * steps), (), torch.float64)
    return (torch.arange(steps) + u.unflatten(1, (count, steps))) / steps


def choose(image: torch.Tensor, clusters: int, count: int) -> tuple[list[int], list[float]]:
    """Return the references of an image and their weights, by the clusters that the package finds."""
    points, logits = NETWORK(BASELINES).detach(), NETWORK(image[None])[0].detach()
    centers, labels = cluster(points, clusters)
    distances = [float((logits - center).norm()) for center in centers]
    members = [i for i in range(len(points)) if int(labels[i]) == int(np.argmin(distances))]
    parts, part_of = cluster(points[members], count)
    references, weights = [], []
    for k, center in enumerate(parts):
        distances = {i: float((points[i] - center).norm()) for i in members}
        references.append(next(i for i in members if distances[i] <= min(distances.values()) * 1.0001))
        weights.append(sum(int(label) == k for label in part_of) / len(members))
    return references, weights


@pytest.mark.parametrize("batch_size", ["auto", 4])
@pytest.mark.parametrize(("clusters", "score"), [(1, "logit"), (3, "logit"), (2, "prob")])
def test_lpi_equals_reference(clusters, score, batch_size):
    settings = {"clusters": clusters, "references_per_image": 3, "steps": 2, "batch_size": batch_size}
    values = xplain.attribute(CLASSIFIER, X, "lpi", target=TARGETS, score=score, baselines=BASELINES, **settings).values
    groups = [choose(image, clusters, 3) for image in X]
    for i, target in enumerate(TARGETS):
        references, weights = groups[i]
        alphas = positions(max(len(group[0]) for group in groups), 2)[i, : len(references)]
        f = gradients.SCORES[score](NETWORK, target)
        expected = lpi(f, X[i], [BASELINES[r] for r in references], weights, alphas.tolist())
        toys.assert_same(values[i], expected, rtol=1e-8)


def test_lpi_with_noise_equals_reference():
    values = xplain.attribute(CLASSIFIER, X, "lpi", target=TARGETS, references_per_image=4, steps=3).values
    noise = Streams.of(X, 0, "lpi").uniform(torch.arange(4), (3, 8, 10), torch.float64)
    for i, target in enumerate(TARGETS):
        f = gradients.logit(NETWORK, target)
        expected = lpi(f, X[i], list(noise[i]), [0.25] * 4, positions(4, 3)[i].tolist())
        toys.assert_same(values[i], expected, rtol=1e-8)


def test_lpi_linear_model_closed_form():
    """φ = w ⊙ (x - Σ ρ_r r)."""
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    model = toys.Linear(weight)
    values = xplain.attribute(
        toys.classifier(model), X, "lpi", target=1, baselines=BASELINES, references_per_image=3
    ).values
    chosen = choose_representatives(model(BASELINES).detach(), 1, 3)
    mean = torch.einsum("r,rchw->chw", chosen.weights[0], BASELINES[chosen.indices[0]])
    toys.assert_same(values, weight[1] * (X - mean), rtol=1e-10)
    assert chosen.weights[0].tolist() != pytest.approx([1 / 3] * 3)


def test_lpi_of_one_baseline_is_integrated_gradients():
    """f = Σ x³ from r: φ = x³ - r³."""
    model = toys.Function(lambda x: torch.stack([(x**3).sum(dim=(1, 2, 3))] * 2, dim=1))
    values = xplain.attribute(toys.classifier(model), X[:1], "lpi", target=0, baselines=BASELINES[:1], steps=400).values
    assert float((values[0] - (X[0] ** 3 - BASELINES[0] ** 3)).abs().max()) < 5 * 6 / 12**0.5 / 400**1.5


def test_representatives_of_separate_groups():
    """Points at 0 (three), 1 (one), 100 (two) and 104 (four): two clusters, each of two parts."""
    points = torch.tensor([0.0, 100, 104, 1, 0, 104, 0.1, 104, 100, 104])[:, None]
    chosen = choose_representatives(points, 2, 2)
    order = chosen.centers[:, 0].argsort()
    assert chosen.centers[order, 0].tolist() == pytest.approx([1.1 / 4, 616 / 6])
    parts = [sorted(zip(points[chosen.indices[k], 0].tolist(), chosen.weights[k].tolist(), strict=True)) for k in order]
    assert parts == [[(0.0, 0.75), (1.0, 0.25)], [(100.0, pytest.approx(1 / 3)), (104.0, pytest.approx(2 / 3))]]


def test_clusters_equal_sklearn():
    """Lloyd's algorithm from the same centers."""
    sklearn = pytest.importorskip("sklearn.cluster")
    points = torch.randn(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    centers, labels = cluster(points, 5)
    chosen = [int((points - points.mean(dim=0)).norm(dim=1).argmin())]
    while len(chosen) < 5:
        chosen.append(int(np.argmax([min(float((p - points[c]).norm()) for c in chosen) for p in points])))
    fitted = sklearn.KMeans(5, init=points[chosen].numpy(), n_init=1, tol=0).fit(points.numpy())
    np.testing.assert_allclose(centers, fitted.cluster_centers_, atol=1e-12)
    assert labels.tolist() == fitted.labels_.tolist()


def test_lpi_ignores_repeated_baselines():
    """Two different images, one three times: weights 3/4 and 1/4."""
    repeated = BASELINES[[0, 1, 0, 0]]
    chosen = choose_representatives(NETWORK(repeated).detach(), 1, 20)
    weights = dict(zip((int(i) == 1 for i in chosen.indices[0]), chosen.weights[0].tolist(), strict=True))
    assert weights == {False: 0.75, True: 0.25}
    cost = xplain.attribute(CLASSIFIER, X, "lpi", target=TARGETS, baselines=repeated, steps=5).cost
    assert (cost.forwards, cost.backwards) == (3 * 2 * 5, 3 * 2 * 5)


def test_lpi_rejects_wrong_baselines():
    with pytest.raises(UsageError, match="lpi: clusters=2 requires baselines; use baselines=DIR"):
        xplain.attribute(CLASSIFIER, X, "lpi", clusters=2)
    with pytest.raises(InputError, match="baselines of shape"):
        xplain.attribute(CLASSIFIER, X, "lpi", baselines=BASELINES[..., :-1])
