"""Infidelity on models with known values, and against Captum."""

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


def compute_score(maps: Tensor, model=LINEAR, **options) -> xplain.Score:
    options = {"perturbations": 9, "target": 1, "score": "logit"} | options
    return xplain.measure(model, X, maps, "infidelity", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_linear_map_has_none(kind):
    assert compute_score(SLOPES, kind=kind, content="slopes").values.max() < 1e-24
    assert compute_score(SLOPES * X, kind=kind, content="contributions").values.max() < 1e-24
    # the wrong content gives an error
    assert compute_score(SLOPES, kind=kind, content="contributions").values.min() > 1e-3
    assert compute_score(SLOPES * X, kind=kind, content="slopes").values.min() > 1e-3


def test_contributions_use_the_baseline():
    model = toys.classifier(toys.Function(lambda x: torch.einsum("bchw,kchw->bk", x, WEIGHT)), mean=toys.MEAN)
    mean = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None]
    for kind in KINDS:
        score = compute_score(SLOPES * (X - mean), model, kind=kind, content="contributions", baseline="mean")
        assert score.values.max() < 1e-24
        assert (
            compute_score(SLOPES * X, model, kind="gaussian", content="contributions", baseline="mean").values.min()
            > 1e-4
        )


def test_gray_contributions_sum_over_channels():
    maps = (SLOPES * X).sum(dim=1, keepdim=True)
    assert compute_score(maps, kind="square", content="contributions").values.max() < 1e-24


def test_gray_slopes_fit_every_channel():
    model = toys.classifier(toys.Linear(WEIGHT[:, :1].expand(-1, 3, -1, -1).clone()))
    for kind in KINDS:
        assert compute_score(SLOPES[:, :1], model, kind=kind, content="slopes").values.max() < 1e-24


def test_gaussian_noise_measures_score_variance():
    """E (w I)² = σ² ‖w‖²; the standard error of 800 draws is 5 %."""
    values = compute_score(torch.zeros_like(X), kind="gaussian", sigma=0.3, content="slopes", perturbations=800).values
    expected = 0.09 * float(WEIGHT[1].square().sum())
    assert values.tolist() == pytest.approx([expected] * 3, rel=0.15)
    half = compute_score(SLOPES / 2, kind="gaussian", sigma=0.3, content="slopes", perturbations=800).values
    toys.assert_same(half, values / 4)


def test_squares_are_uniform_inside_image():
    """A square of a third of the shorter side of 8 x 10 pixels has 3 x 3 pixels and 6 x 8 positions."""
    squares = _draw_squares(Streams.of(X, 0, "infidelity"), torch.arange(960), torch.ones_like(X), 1 / 3)
    assert squares.shape == (3, 960, 3, 8, 10)
    flat = squares[:, :, 0].flatten(0, 1)
    assert (squares == squares[:, :, :1]).all()
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


def test_zero_map_misses_all_changes():
    score = compute_score(torch.zeros_like(X), size=0.5, content="contributions")
    squares = _draw_squares(Streams.of(X, 0, "infidelity"), torch.arange(9), X, 0.5)
    changes = (squares * WEIGHT[1]).sum(dim=(2, 3, 4))
    toys.assert_same(score.values, changes.square().mean(dim=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", ["slopes", "contributions"])
def test_normalize_ignores_map_scale(kind, content):
    model, maps = toys.classifier(NET), toys.images(3, seed=8) - 0.5
    options = {"kind": kind, "content": content, "normalize": True}
    plain = compute_score(maps, model, **options).values
    for scale in (-3.0, 1e-6, 1e6):
        toys.assert_same(compute_score(scale * maps, model, **options).values, plain, rtol=1e-6)
    assert (plain <= compute_score(maps, model, **options | {"normalize": False}).values).all()
    assert compute_score(100 * SLOPES, kind=kind, content="slopes", normalize=True).values.max() < 1e-20


def test_normalize_zero_map_is_undefined():
    maps = torch.stack([torch.zeros_like(X[0]), X[1], X[2]])
    score = compute_score(maps, toys.classifier(NET), content="slopes", normalize=True)
    assert score.values.isnan().tolist() == [True, False, False]
    assert score.undefined["no perturbation overlaps the map"].tolist() == [True, False, False]
    assert compute_score(maps, content="slopes").values.isfinite().all()


@pytest.mark.parametrize("content", ["slopes", "contributions"])
@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_matches_captum(content, normalize):
    """Captum gets the perturbed images that the metric passed to the model."""
    metrics = pytest.importorskip("captum.metrics")
    inputs: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        inputs.append(x.detach())
        return NET(x)

    maps = toys.images(3, seed=8) - 0.5
    options = {"kind": "gaussian", "content": content, "normalize": normalize, "perturbations": 5, "batch_size": 100}
    score = compute_score(maps, toys.classifier(toys.Function(logits)), **options)
    (perturbed,) = [x for x in inputs if len(x) == 15]

    @metrics.infidelity_perturb_func_decorator(content == "contributions")
    def perturb(images: Tensor) -> Tensor:
        assert torch.equal(images.unflatten(0, (3, 5))[:, 0], X)
        return perturbed

    expected = metrics.infidelity(
        NET, perturb, X, maps, target=1, n_perturb_samples=5, max_examples_per_batch=None, normalize=normalize
    )
    toys.assert_same(score.values, expected.detach(), rtol=1e-7)


@pytest.mark.parametrize(
    ("method", "content", "score"),
    [("saliency", "slopes", "logit"), ("gxi", "contributions", "logit"), ("mfaba", "contributions", None)],
)
def test_method_determines_content_and_score(method, content, score):
    model = toys.classifier(NET)
    maps = xplain.attribute(model, X, method, target=1).values
    spec = xplain.pipelines.attribution.METHODS.get(method)
    expected = compute_score(maps, model, content=content, score=score or spec.score).values
    toys.assert_same(compute_score(maps, model, score="auto", method=method).values, expected)


def test_unknown_method_requires_content():
    with pytest.raises(UsageError, match=r"requires the kind of attribution .*; set content=slopes"):
        compute_score(SLOPES)
    with pytest.raises(UsageError, match="requires the kind of attribution"):
        compute_score(SLOPES, method=lambda classifier, images, target: images)


def test_draws_depend_on_image_only():
    score = compute_score(SLOPES, content="slopes", model=toys.classifier(NET))
    assert score.cost.forwards == 3 * 10
    for i in range(3):
        alone = xplain.measure(
            toys.classifier(NET), X[i : i + 1], SLOPES[:1], "infidelity", target=1, perturbations=9, content="slopes"
        )
        toys.assert_same(alone.values[0], score.values[i])
    other = compute_score(SLOPES, content="slopes", model=toys.classifier(NET), seed=1)
    assert not torch.equal(other.values, score.values)
