"""Tests of LIME: against its definition, scikit-learn's ridge regression and closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import superpixels as reference
from xplain.core.rng import Streams
from xplain.methods._segmentation import fill_with_means, find_superpixels

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = F.interpolate(toys.images(3, 3, 4), scale_factor=4, mode="bilinear")  # smooth, or it would be one segment
LABELS = find_superpixels(X, 6)


def shown_of(k: int, samples: int) -> np.ndarray:
    rng = Streams.of(X[k : k + 1], 0, "lime")
    count = int(LABELS[k].max()) + 1
    shown = (rng.uniform(torch.arange(samples), (int(LABELS.max()) + 1,), torch.float64)[0] < 0.5)[:, :count]
    shown[0] = True
    return shown.numpy()


@pytest.mark.parametrize(("width", "ridge"), [(0.25, 1.0), (1.0, 0.01)])
@pytest.mark.parametrize("baseline", ["segment", "black"])
def test_lime_equals_reference(baseline, width, ridge):
    attribution = xplain.attribute(
        CLASSIFIER, X, "lime", target=1, samples=30, segments=6, width=width, ridge=ridge, baseline=baseline
    )
    for k, image in enumerate(X):
        fill = reference.segment_means(image, LABELS[k]) if baseline == "segment" else torch.zeros_like(image)
        f = gradients.probability(NETWORK, 1)
        expected = reference.lime(f, image, fill, LABELS[k], shown_of(k, 30), width, ridge)
        torch.testing.assert_close(attribution.values[k], expected)


def test_lime_ignores_other_images():
    counts = LABELS.amax(dim=(1, 2)) + 1
    assert len(counts.unique()) > 1
    together = xplain.attribute(CLASSIFIER, X, "lime", target=1, samples=25, segments=6).values
    alone = [xplain.attribute(CLASSIFIER, x[None], "lime", target=1, samples=25, segments=6).values[0] for x in X]
    torch.testing.assert_close(together, torch.stack(alone))


def test_lime_equals_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    shown = shown_of(0, 40)
    f = gradients.probability(NETWORK, 2)
    fill = fill_with_means(X, LABELS)[0]
    scores = [float(f(reference.show(X[0], fill, LABELS[0], row.tolist())).detach()) for row in shown]
    distance = 1 - np.sqrt(shown.mean(axis=1))
    model = linear.Ridge(alpha=1).fit(shown, scores, sample_weight=np.sqrt(np.exp(-(distance**2) / 0.25**2)))
    values = xplain.attribute(CLASSIFIER, X[:1], "lime", target=2, samples=40, segments=6).values[0]
    torch.testing.assert_close(values, reference.spread(model.coef_, LABELS[0]))


def test_lime_additive_score_is_exact():
    """With linear f, hiding a segment removes w·x over the segment, independent of the other segments."""
    weight = torch.randn(2, 3, 12, 16, dtype=torch.float64)
    attribution = xplain.attribute(
        toys.classifier(toys.Linear(weight)), X, "lime", target=0, score="logit", samples=60, segments=6,
        ridge=1e-9, baseline="black",
    )  # fmt: skip
    for k in range(3):
        parts = (weight[0] * X[k]).sum(dim=0)
        sums = [float(parts[LABELS[k] == segment].sum()) for segment in LABELS[k].unique()]
        torch.testing.assert_close(
            attribution.values[k], reference.spread(np.array(sums), LABELS[k]), atol=1e-7, rtol=0
        )


def test_superpixels_tile_the_image():
    for labels in LABELS:
        assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    torch.testing.assert_close(
        fill_with_means(X, LABELS),
        torch.stack([reference.segment_means(*pair) for pair in zip(X, LABELS, strict=True)]),
    )


def test_lime_constant_model_gives_zero():
    model = toys.classifier(toys.Function(lambda x: x.new_ones(len(x), 3)))
    values = xplain.attribute(model, X, "lime", target=0, samples=20, segments=6).values
    torch.testing.assert_close(values, torch.zeros_like(values))
