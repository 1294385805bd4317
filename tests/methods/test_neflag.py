"""Tests of NeFLAG: Algorithm 1 with given initial points, closed forms, the distribution of the points, and cost."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import neflag as reference
from xplain.core.rng import Streams

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
INITS = ["linf-corner", "linf-uniform", "l2-sphere"]


def initial_points(init: str, count: int, radius: float, seed: int = 0) -> torch.Tensor:
    """Return x + ε times a corner of the unit cube, a point in it, or a point on the unit sphere (B, n, C, H, W)."""
    streams = Streams.of(X, seed, "neflag")
    draw_args = (torch.arange(count), (3, 8, 10), torch.float64)
    if init == "linf-corner":
        offsets = streams.signs(*draw_args)
    elif init == "linf-uniform":
        offsets = 2 * streams.uniform(*draw_args) - 1
    else:
        normal = streams.normal(*draw_args)
        offsets = normal / normal.square().sum(dim=(2, 3, 4), keepdim=True).sqrt()
    return X[:, None] + radius * offsets


def compare(score="prob", batch_size="auto", seed=0, init="linf-corner", radius=0.1, samples=5, **settings):
    settings = {"variant": "sign", "flux": "start", "steps": 1} | settings
    values = xplain.attribute(
        CLASSIFIER,
        X,
        "neflag",
        target=TARGETS,
        score=score,
        batch_size=batch_size,
        seed=seed,
        init=init,
        radius=radius,
        samples=samples,
        **settings,
    ).values
    points = initial_points(init, samples, radius, seed)
    for value, image, target, initial in zip(values, X, TARGETS, points, strict=True):
        f = gradients.SCORES[score](NETWORK, target)
        toys.assert_same(value, reference.neflag(f, image, list(initial), radius=radius, **settings))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("flux", ["start", "end"])
@pytest.mark.parametrize("variant", ["sign", "lemma"])
def test_neflag_equals_reference(variant, flux, init, steps):
    compare(variant=variant, flux=flux, init=init, steps=steps)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_neflag_reduction_and_batch_size_equal_reference(reduce, batch_size):
    compare(reduce=reduce, batch_size=batch_size, flux="end", steps=2, seed=4)


@pytest.mark.parametrize("flux", ["start", "end"])
def test_neflag_negative_only_equals_reference(flux):
    """In a wide cube some points are dropped and others are not."""
    settings = {"variant": "lemma", "flux": flux, "steps": 1, "init": "linf-corner", "radius": 1.5}
    compare(negative_only=True, samples=8, **settings)


def test_neflag_wide_cube_has_positive_flux():
    settings = {"variant": "lemma", "flux": "end", "radius": 1.5, "samples": 8}
    share = xplain.attribute(CLASSIFIER, X, "neflag", target=TARGETS, **settings).details["negative_flux_share"]
    assert 0.0 < float(share.min()) <= float(share.max()) <= 1.0
    assert float(share.min()) < 1.0


@pytest.mark.parametrize("score", ["logit", "log-prob"])
def test_neflag_score_equals_reference(score):
    compare(score=score, flux="end")


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("flux", ["start", "end"])
def test_neflag_linear_logits_closed_form(flux, init, steps):
    """n ε |w| with variant=sign, n ε w² / ‖w‖ with variant=lemma for any initial point; not the signed weight."""
    model = toys.classifier(toys.Linear(WEIGHT))
    settings = {"flux": flux, "init": init, "steps": steps, "samples": 4, "radius": 0.05, "score": "logit", "target": 1}
    sign, lemma = (xplain.attribute(model, X, "neflag", variant=v, **settings).values for v in ("sign", "lemma"))
    w = WEIGHT[1]
    toys.assert_same(sign, (4 * 0.05 * w.abs()).expand_as(X), rtol=1e-11)
    toys.assert_same(lemma, (4 * 0.05 * w**2 / w.square().sum().sqrt()).expand_as(X), rtol=1e-11)


def test_neflag_mean_is_sum_over_samples():
    total, mean = (xplain.attribute(CLASSIFIER, X, "neflag", samples=7, reduce=r).values for r in ("sum", "mean"))
    toys.assert_same(total, 7 * mean, rtol=1e-12)


def test_neflag_default_is_mean_absolute_gradient():
    points = initial_points("linf-corner", 6, 0.1)
    values = xplain.attribute(CLASSIFIER, X, "neflag", target=TARGETS, samples=6, reduce="mean").values
    for value, target, initial in zip(values, TARGETS, points, strict=True):
        f = gradients.probability(NETWORK, target)
        toys.assert_same(value, 0.1 * sum(gradients.gradient(f, point).abs() for point in initial) / 6)
    assert float(values.min()) >= 0.0


def bowl(sign: float) -> xplain.Classifier:
    """Return a model with f = ± ½ ‖x - X_0‖²."""
    return toys.classifier(
        toys.Function(lambda x: torch.stack([sign * ((x - X[0]) ** 2).sum(dim=(1, 2, 3)) / 2] * 2, dim=1))
    )


def test_neflag_lemma_alternates_in_bowl():
    """At the center x̃ alternates between two opposite points: the flux at the end is outward, -ε² per sample, for every m."""
    settings = {"variant": "lemma", "init": "l2-sphere", "samples": 3, "radius": 0.2, "score": "logit", "target": 0}
    one, two, three = (xplain.attribute(bowl(1.0), X[:1], "neflag", flux="end", steps=m, **settings) for m in (1, 2, 3))
    for attribution in (one, two, three):
        assert float(attribution.total) == pytest.approx(-3 * 0.2**2, rel=1e-12)
        assert attribution.details["negative_flux_share"].tolist() == [0.0]
        toys.assert_same(attribution.values, one.values, rtol=1e-11)
    start = xplain.attribute(bowl(1.0), X[:1], "neflag", flux="start", steps=1, **settings)
    toys.assert_same(start.values, -one.values, rtol=1e-11)


def test_neflag_negative_only_drops_outward_flux():
    settings = {"variant": "lemma", "init": "l2-sphere", "flux": "end", "score": "logit", "target": 0, "samples": 3}
    dropped = xplain.attribute(bowl(1.0), X[:1], "neflag", negative_only=True, **settings)
    kept = xplain.attribute(bowl(-1.0), X[:1], "neflag", negative_only=True, **settings)
    assert float(dropped.values.abs().max()) == 0.0
    assert float(kept.total) == pytest.approx(3 * 0.1**2, rel=1e-12)
    assert kept.details["negative_flux_share"].tolist() == [1.0]


def recovered_offset(init: str) -> torch.Tensor:
    """Return the initial offset of one sample in units of ε: f = ½ Σ x² has F = x̃ > 0, so φ = ε x̃."""
    model = toys.classifier(toys.Function(lambda x: torch.stack([(x**2).sum(dim=(1, 2, 3)) / 2] * 2, dim=1)))
    values = xplain.attribute(model, X, "neflag", samples=1, radius=0.05, init=init, score="logit", target=0).values
    return (values / 0.05 - X) / 0.05


def test_init_linf_corner_gives_corners():
    offset = recovered_offset("linf-corner")
    toys.assert_same(offset.abs(), torch.ones_like(X), rtol=1e-10)
    assert abs(float(offset.mean())) < 5 / 720**0.5


def test_init_linf_uniform_fills_cube():
    offset = recovered_offset("linf-uniform")
    assert float(offset.abs().max()) < 1.0
    assert float(offset.square().mean()) == pytest.approx(1 / 3, abs=5 * (4 / 45 / 720) ** 0.5)


def test_init_l2_sphere_has_unit_length():
    offset = recovered_offset("l2-sphere")
    toys.assert_same(offset.square().sum(dim=(1, 2, 3)), torch.ones(3, dtype=torch.float64), rtol=1e-10)


def test_neflag_variants_place_last_point():
    """With linear f, Σ F·(x - x̃) = ε ‖F‖₁ on the cube and ε ‖F‖₂ on the sphere."""
    w = WEIGHT[1]
    model = toys.classifier(toys.Linear(WEIGHT))
    sign, lemma = (
        xplain.attribute(model, X[:1], "neflag", variant=v, samples=1, radius=0.1, score="logit", target=1).total
        for v in ("sign", "lemma")
    )
    assert float(sign) == pytest.approx(0.1 * float(w.abs().sum()), rel=1e-12)
    assert float(lemma) == pytest.approx(0.1 * float(w.square().sum().sqrt()), rel=1e-12)


def test_neflag_constant_model_gives_zero():
    net = toys.small_net(1)
    net.head.weight.data.zero_()
    for variant in ("sign", "lemma"):
        values = xplain.attribute(toys.classifier(net), X, "neflag", variant=variant, samples=3).values
        assert float(values.abs().max()) == 0.0


@pytest.mark.parametrize(
    ("flux", "steps", "gradients_per_sample"), [("start", 1, 1), ("end", 1, 2), ("start", 3, 3), ("end", 3, 4)]
)
def test_neflag_cost(flux, steps, gradients_per_sample):
    classifier, _ = toys.with_pixels(toys.small_net(1))
    rows = toys.watch(classifier)
    cost = xplain.attribute(classifier, X, "neflag", samples=6, flux=flux, steps=steps).cost
    assert cost.forwards == cost.backwards == 3 * 6 * gradients_per_sample
    assert rows == [3] + [18] * gradients_per_sample
