"""Infidelity on linear and quadratic models, where it is known, and against captum's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.core.rng import Streams
from xplain.metrics.infidelity import _draw_squares

X = toys.images(3)
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
LINEAR = toys.classifier(toys.Linear(WEIGHT))
SLOPES = WEIGHT[1].expand(3, -1, -1, -1)
NET = toys.small_net(1, scale=15.0)
KINDS = ["square", "gaussian"]


def measured(maps: Tensor, model=LINEAR, **options) -> xplain.Score:
    options = {"perturbations": 9, "target": 1, "score": "logit"} | options
    return xplain.measure(model, X, maps, "infidelity", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_map_of_a_linear_model_has_none(kind):
    assert measured(SLOPES, kind=kind, content="slopes").values.max() < 1e-24
    assert measured(SLOPES * X, kind=kind, content="contributions").values.max() < 1e-24
    # and each is wrong when it is taken for the other
    assert measured(SLOPES, kind=kind, content="contributions").values.min() > 1e-3
    assert measured(SLOPES * X, kind=kind, content="slopes").values.min() > 1e-3


def test_contributions_are_relative_to_the_baseline():
    model = toys.classifier(toys.Function(lambda x: torch.einsum("bchw,kchw->bk", x, WEIGHT)), mean=toys.MEAN)
    mean = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None]
    for kind in KINDS:
        found = measured(SLOPES * (X - mean), model, kind=kind, content="contributions", baseline="mean")
        assert found.values.max() < 1e-24
        assert (
            measured(SLOPES * X, model, kind="gaussian", content="contributions", baseline="mean").values.min() > 1e-4
        )


def test_a_map_without_colour_of_contributions_sums_the_channels():
    maps = (SLOPES * X).sum(dim=1, keepdim=True)
    assert measured(maps, kind="square", content="contributions").values.max() < 1e-24


def test_a_map_without_colour_of_slopes_holds_for_every_channel():
    model = toys.classifier(toys.Linear(WEIGHT[:, :1].expand(-1, 3, -1, -1).clone()))
    for kind in KINDS:
        assert measured(SLOPES[:, :1], model, kind=kind, content="slopes").values.max() < 1e-24


def test_gaussian_noise_under_a_zero_map_measures_the_variance_of_the_score():
    """E (w I)² = σ² ‖w‖²; 800 draws leave 5 % of it."""
    found = measured(torch.zeros_like(X), kind="gaussian", sigma=0.3, content="slopes", perturbations=800).values
    expected = 0.09 * float(WEIGHT[1].square().sum())
    assert found.tolist() == pytest.approx([expected] * 3, rel=0.15)
    half = measured(SLOPES / 2, kind="gaussian", sigma=0.3, content="slopes", perturbations=800).values
    toys.assert_same(half, found / 4)


def test_squares_lie_inside_the_image_everywhere_alike():
    """A third of the shorter side of 8 x 10 pixels is 3: 6 x 8 places."""
    holes = _draw_squares(Streams.of(X, 0, "infidelity"), torch.arange(960), torch.ones_like(X), 1 / 3)
    assert holes.shape == (3, 960, 3, 8, 10)
    flat = holes[:, :, 0].flatten(0, 1)
    assert (holes == holes[:, :, :1]).all()
    assert flat.unique().tolist() == [0, 1]
    assert flat.sum(dim=(1, 2)).unique().tolist() == [9]
    rows, columns = flat.amax(dim=2).argmax(dim=1), flat.amax(dim=1).argmax(dim=1)
    assert (
        flat[torch.arange(2880), rows + 2, columns + 2] == 1
    ).all()  # so the nine are a square from its first corner
    counts = torch.bincount(rows * 8 + columns, minlength=48)
    assert len(counts) == 48
    chance = 1 / 48
    assert float((counts - 60).abs().max()) < 4.5 * (2880 * chance * (1 - chance)) ** 0.5


def test_a_map_of_zeros_misses_all_that_squares_change():
    found = measured(torch.zeros_like(X), size=0.5, content="contributions")
    holes = _draw_squares(Streams.of(X, 0, "infidelity"), torch.arange(9), X, 0.5)
    changes = (holes * WEIGHT[1]).sum(dim=(2, 3, 4))
    toys.assert_same(found.values, changes.square().mean(dim=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", ["slopes", "contributions"])
def test_the_scale_of_a_normalized_map_does_not_matter(kind, content):
    model, maps = toys.classifier(NET), toys.images(3, seed=8) - 0.5
    options = {"kind": kind, "content": content, "normalize": True}
    plain = measured(maps, model, **options).values
    for scale in (-3.0, 1e-6, 1e6):
        toys.assert_same(measured(scale * maps, model, **options).values, plain, rtol=1e-6)
    assert (plain <= measured(maps, model, **options | {"normalize": False}).values).all()
    assert measured(100 * SLOPES, kind=kind, content="slopes", normalize=True).values.max() < 1e-20


def test_a_map_that_no_perturbation_meets_cannot_be_normalized():
    maps = torch.stack([torch.zeros_like(X[0]), X[1], X[2]])
    found = measured(maps, toys.classifier(NET), content="slopes", normalize=True)
    assert found.values.isnan().tolist() == [True, False, False]
    assert found.undefined["no perturbation overlaps the map"].tolist() == [True, False, False]
    assert measured(maps, content="slopes").values.isfinite().all()


@pytest.mark.parametrize("content", ["slopes", "contributions"])
@pytest.mark.parametrize("normalize", [False, True])
def test_agrees_with_captum_on_the_same_perturbations(content, normalize):
    """Captum is handed the moves that the metric made, read off the images that the model was shown."""
    metrics = pytest.importorskip("captum.metrics")
    seen: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return NET(x)

    maps = toys.images(3, seed=8) - 0.5
    options = {"kind": "gaussian", "content": content, "normalize": normalize, "perturbations": 5, "batch_size": 100}
    found = measured(maps, toys.classifier(toys.Function(logits)), **options)
    (shown,) = [x for x in seen if len(x) == 15]

    @metrics.infidelity_perturb_func_decorator(content == "contributions")
    def perturb(inputs: Tensor) -> Tensor:
        assert torch.equal(inputs.unflatten(0, (3, 5))[:, 0], X)
        return shown

    theirs = metrics.infidelity(
        NET, perturb, X, maps, target=1, n_perturb_samples=5, max_examples_per_batch=None, normalize=normalize
    )
    toys.assert_same(found.values, theirs.detach(), rtol=1e-7)


@pytest.mark.parametrize(
    ("method", "content", "score"),
    [("saliency", "slopes", "logit"), ("gxi", "contributions", "logit"), ("mfaba", "contributions", None)],
)
def test_the_method_says_what_its_map_holds_and_explains(method, content, score):
    model = toys.classifier(NET)
    maps = xplain.attribute(model, X, method, target=1).values
    spec = xplain.pipelines.attribution.METHODS.get(method)
    told = measured(maps, model, content=content, score=score or spec.score).values
    toys.assert_same(measured(maps, model, score="auto", method=method).values, told)


def test_without_the_method_it_must_be_told():
    with pytest.raises(
        UsageError, match="infidelity cannot tell whether the map holds slopes or contributions; pass content=slopes"
    ):
        measured(SLOPES)
    with pytest.raises(UsageError, match="cannot tell whether the map holds"):
        measured(SLOPES, method=lambda classifier, images, target: images)


def test_draws_are_those_of_the_image_and_cost_is_one_row_each_and_the_image():
    found = measured(SLOPES, content="slopes", model=toys.classifier(NET))
    assert found.cost.forwards == 3 * 10
    for i in range(3):
        alone = xplain.measure(
            toys.classifier(NET), X[i : i + 1], SLOPES[:1], "infidelity", target=1, perturbations=9, content="slopes"
        )
        toys.assert_same(alone.values[0], found.values[i])
    other = measured(SLOPES, content="slopes", model=toys.classifier(NET), seed=1)
    assert not torch.equal(other.values, found.values)
