"""DiffID against literal code, on models with known evidence, and where it is undefined."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import value, with_output
from tests.reference import diffid as reference
from xplain.core.errors import UsageError

X = toys.images(3)
MAPS = toys.images(3, seed=9) - 0.5
NET = toys.Linear(torch.randn(5, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * 0.2)
MODEL, LOGITS = toys.with_pixels(NET)
TARGETS = [2, 0, 4]


def compute_score(maps: Tensor = MAPS, images: Tensor = X, model=MODEL, target=TARGETS, **options) -> xplain.Score:
    return xplain.measure(model, images, maps, "diffid", target=target, **options)


def compute_reference(i: int, maps: Tensor, target: int, variant: str, readout: str) -> list[float]:
    def logits(image: Tensor) -> Tensor:
        return NET(image[None])[0].detach()

    return reference.diffid(logits, toys.normalise(X[i]), maps[i], target, variant, readout)


@pytest.mark.parametrize("variant", ["sig", "lpi"])
@pytest.mark.parametrize("readout", ["accuracy", "retention", "logit-ratio"])
def test_diffid_matches_reference(variant, readout):
    logits = LOGITS(X).detach()
    targets = logits.argmax(dim=1).tolist()
    targets[2] = (targets[2] + 1) % 5  # a wrongly classified image
    score = compute_score(target=targets, variant=variant, readout=readout)
    is_undefined = [readout == "logit-ratio" and logits[i, targets[i]].item() <= 0 for i in range(3)]
    assert score.values.isnan().tolist() == is_undefined
    for i in range(3):
        if not is_undefined[i]:
            expected = compute_reference(i, MAPS, targets[i], variant, readout)
            assert score.curve[i].tolist() == pytest.approx(expected, abs=1e-9)
            assert float(score.values[i]) == pytest.approx(sum(expected) / 9, abs=1e-9)
    assert float(score.curve.nan_to_num().abs().max()) > 0.01
    rows = 18 if readout == "accuracy" else 19
    assert score.cost.forwards == 3 * rows


def test_lpi_ranks_one_channel_maps():
    maps = MAPS.sum(dim=1, keepdim=True)
    score = compute_score(maps, variant="lpi", readout="retention")
    for i, target in enumerate(TARGETS):
        assert score.curve[i].tolist() == pytest.approx(
            compute_reference(i, maps, target, "lpi", "retention"), abs=1e-9
        )


def test_sig_is_undefined_for_one_channel_maps():
    score = compute_score(MAPS[:, :1])
    assert score.values.isnan().all()
    assert {reason: mask.tolist() for reason, mask in score.undefined.items()} == {
        "the map has one value per pixel, which variant=sig does not rank": [True] * 3
    }
    assert score.cost.forwards == 0


def make_spot_model(channel: int = 1) -> xplain.Classifier:
    """Return a model of two classes; class 1 if the value at row 3, column 4 of a channel exceeds 0.6."""
    return toys.classifier(
        toys.Function(lambda x: torch.stack([torch.full_like(x[:, 0, 0, 0], 0.6), x[:, channel, 3, 4]], dim=1))
    )


@pytest.mark.parametrize("variant", ["sig", "lpi", "pixel"])
@pytest.mark.parametrize("baseline", ["kept-mean", "mean", "blur"])
def test_one_value_that_decides_scores_one(variant, baseline):
    """The model keeps the class while the value is kept, and loses it at every fraction at which it is replaced."""
    images = X[:1] * 0.5
    images[0, 1, 3, 4] = 0.9
    maps = torch.rand(X[:1].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    maps[0, 1, 3, 4] = 1
    score = compute_score(maps, images, make_spot_model(), 1, variant=variant, baseline=baseline)
    assert score.curve.tolist() == [[1.0] * 9]
    assert score.values.tolist() == [1.0]
    negative = compute_score(-maps, images, make_spot_model(), 1, variant=variant, baseline=baseline).values.tolist()
    assert negative == [-1.0 if variant == "pixel" else 1.0]  # the other variants rank magnitudes


@pytest.mark.parametrize("variant", ["sig", "lpi", "pixel"])
@pytest.mark.parametrize("readout", ["accuracy", "retention"])
def test_constant_maps_and_constant_images_score_zero(variant, readout):
    assert compute_score(torch.full_like(MAPS, 0.3), variant=variant, readout=readout).curve.tolist() == [[0.0] * 9] * 3
    gray = sum(
        factor * torch.tensor(values, dtype=torch.float64) for factor, values in ((1, toys.MEAN), (0.5, toys.STD))
    )
    images = gray[:, None, None].expand_as(X).clone()  # 0.5 in every channel of the normalized input
    curve = compute_score(images=images, variant=variant, readout=readout).curve
    torch.testing.assert_close(curve, torch.zeros_like(curve), rtol=0, atol=1e-12)


def test_monotone_maps_score_the_same():
    for variant in ("sig", "lpi"):
        scores = [compute_score(maps, variant=variant, readout="retention") for maps in (MAPS, -3 * MAPS)]
        assert torch.equal(scores[0].curve, scores[1].curve)
    cubes = MAPS.sum(dim=1, keepdim=True) ** 3
    scores = [compute_score(maps, variant="pixel", readout="retention") for maps in (MAPS, cubes)]
    assert torch.equal(scores[0].curve, scores[1].curve)


def test_negated_map_cancels_with_signed_pixels():
    first, second = (compute_score(maps, variant="pixel", readout="retention").curve for maps in (MAPS, -MAPS))
    assert torch.equal(first, -second)
    signed, absolute = (
        compute_score(variant="pixel", absolute=flag, readout="retention").curve for flag in (False, True)
    )
    assert torch.equal(signed, first)
    magnitudes = MAPS.sum(dim=1, keepdim=True).abs()
    assert torch.equal(absolute, compute_score(magnitudes, variant="pixel", readout="retention").curve)


def test_pixels_match_perturbation_curves():
    """With the mean color, retention is that of the curves of ``morf`` and ``lerf`` at the same points."""
    score = compute_score(variant="pixel", readout="retention", baseline="mean")
    options = {"target": TARGETS, "steps": 10}
    most, least = (xplain.measure(MODEL, X, MAPS, name, **options).curve for name in ("morf", "lerf"))
    shares = [(curve[:, 1:10] / curve[:, :1]).clamp(max=1) for curve in (least, most)]
    toys.assert_same(score.curve, shares[0] - shares[1])
    assert float(score.curve.abs().max()) > 0.01


def test_random_maps_score_zero_on_average():
    images = toys.images(1).expand(400, -1, -1, -1)
    maps = torch.rand(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    values = compute_score(maps, images, target=[0] * 400, readout="retention").values
    assert abs(float(values.mean())) < 4 * float(values.std()) / 20
    assert float(values.std()) > 0.01


def test_blur_is_that_of_torchvision():
    """In the normalized space; the blur is linear with weights of sum 1, so it is the same on pixels."""
    score = compute_score(baseline="blur", readout="retention", fractions="40")
    normalized = toys.normalise(X)
    blurred = gaussian_blur(normalized, [11, 11], [5.0, 5.0])
    p = LOGITS(X).softmax(dim=1)
    for i, target in enumerate(TARGETS):
        games = []
        for descending in (False, True):
            image = normalized[i].flatten().clone()
            removed = reference.order(MAPS[i], 3, "sig", descending)[:96]
            image[removed] = blurred[i].flatten()[removed]
            probability = NET(image.view(1, 3, 8, 10)).softmax(dim=1)[0, target]
            games.append(min(1.0, (probability / p[i, target]).item()))
        assert float(score.values[i]) == pytest.approx(games[0] - games[1], abs=1e-9)


def test_color_scale_inverts_the_normalization():
    """Also of gray images of a network of one channel, which normalizes red, green and blue before it weights them."""
    weight = torch.randn(2, 1, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    model = toys.classifier(toys.Linear(weight), mean=toys.MEAN, std=toys.STD)
    model.set_channels(1)
    gray = X[:, :1]
    mean, scale = model.mean_color(1), model.color_scale(1)
    normalized = (
        toys.normalise(gray.expand(-1, 3, -1, -1))
        * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    ).sum(1)
    torch.testing.assert_close((gray[:, 0] - mean) / scale, normalized, check_dtype=False)
    assert model.color_scale(3).flatten().tolist() == pytest.approx(toys.STD)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": "50+100"}, "diffid: fraction 100 replaces all 240 values; use percentages below 100"),
        ({"model": make_spot_model(), "images": X[..., :5], "maps": MAPS[..., :5], "baseline": "blur", "target": 1},
         "diffid: baseline=blur requires more than 5 x 5 pixels, not 8 x 5; use baseline=kept-mean or baseline=mean"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError) as caught:
        compute_score(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("readout", "requirement"),
    [("accuracy", "a model that decides for a class"), ("retention", "a model with probabilities")],
)
def test_values_have_no_accuracy(readout, requirement):
    model = with_output(value(torch.ones(3, 8, 10, dtype=torch.float64)), "none", 1)
    with pytest.raises(UsageError) as caught:
        compute_score(model=model, target=0, readout=readout)
    assert str(caught.value) == (
        f"diffid: readout={readout} requires {requirement}; "
        "use readout=logit-ratio, or --activation sigmoid if the output is a logit"
    )


def test_logit_ratio_of_values():
    """z(LeRF) - z(MoRF), as shares of z: undefined where z is not positive."""
    weight = torch.ones(3, 8, 10, dtype=torch.float64)
    score = compute_score(
        X, model=with_output(value(weight), "none", 1), target=0, readout="logit-ratio", baseline="mean"
    )
    for i in range(3):
        values = X[i].flatten().sort().values
        expected = [
            float(values[24 * k :].sum() - values[: 240 - 24 * k].sum()) / float(values.sum()) for k in range(1, 10)
        ]
        assert score.curve[i].tolist() == pytest.approx(expected, abs=1e-9)
    negative = compute_score(X, model=with_output(value(-weight), "none", 1), target=0, readout="logit-ratio")
    assert negative.values.isnan().all()
    assert negative.undefined["the score of the image is not positive"].tolist() == [True] * 3
