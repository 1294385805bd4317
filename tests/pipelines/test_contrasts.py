"""The classes of the score ``contrast`` are those of the unchanged image: closed forms of linear models, records and refusals."""

from __future__ import annotations

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import with_output
from tests.reference import layers as reference
from tests.reference.grad_cam import upsample
from xplain.core.errors import UsageError
from xplain.core.options import ComputeOptions
from xplain.core.registry import METHODS
from xplain.core.scores import ContrastScore
from xplain.data.preprocessing import Preprocessing
from xplain.oracle import Oracle
from xplain.oracle.targets import find_nearest_classes
from xplain.pipelines.method_run import MethodRun

X = toys.images(2)
WEIGHT = torch.randn(4, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) / 8


def nearly_tied() -> xplain.Classifier:
    """Return a linear model whose logits of the first image are 0, 0.01, 0.02 and 5: noise and other images have other nearest classes."""
    bias = torch.tensor([0.0, 0.01, 0.02, 5.0], dtype=torch.float64) - torch.einsum("chw,kchw->k", X[0], WEIGHT)
    return toys.classifier(toys.Linear(WEIGHT, bias))


MODEL = nearly_tied()
SLOPES = WEIGHT[0] - 0.6 * WEIGHT[1]  # of target 0 and the nearest class 1
NEAREST = "contrast:classes=1"


def explain(method: str, image: torch.Tensor = X[:1], **options) -> xplain.Attribution:
    return xplain.attribute(MODEL, image, method, target=0, score=NEAREST, **options)


def test_nearest_class_changes_with_the_image():
    noisy = X[:1] + 0.15 * torch.randn(50, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    nearest = find_nearest_classes(MODEL(noisy).detach(), torch.zeros(50, dtype=torch.long), 1)
    assert set(nearest[:, 0].tolist()) == {1, 2}
    black = find_nearest_classes(MODEL(0 * X[:1]).detach(), torch.tensor([0]), 1)
    assert black.tolist() != [[1]]


@pytest.mark.parametrize(
    "method", ["saliency", "smoothgrad:samples=9", "smooth:samples=9", "smooth:method=saliency,samples=9"]
)
def test_slopes_of_noisy_copies_have_one_class(method):
    toys.assert_same(explain(method).values, SLOPES[None])


@pytest.mark.parametrize(
    "method",
    ["ig:steps=5", "smooth:method=ig:steps=3,samples=4,noise=0", "input-x-gradient", "gig:steps=5", "deeplift"],
)
def test_paths_have_one_class(method):
    result = explain(method)
    toys.assert_same(result.values, (X[0] * SLOPES)[None], rtol=1e-7)
    if result.expected is not None:
        assert float(result.expected[0]) == pytest.approx(float((X[0] * SLOPES).sum()), rel=1e-9)


def test_centered_deeplift_expects_its_sum():
    """Centering subtracts the mean of all logits from each, of which 1 - 0.6 remain."""
    result = explain("deeplift", center=True)
    toys.assert_same(result.values, X[:1] * (SLOPES - 0.4 * WEIGHT.mean(dim=0)))
    assert float(result.gap.abs().max()) < 1e-12


def test_batch_has_the_classes_of_each_image():
    result = explain("saliency", X)
    nearest = find_nearest_classes(MODEL(X).detach(), torch.tensor([0, 0]), 1)
    assert result.details["contrasts"].tolist() == nearest.tolist() == [[1], [int(nearest[1, 0])]]
    toys.assert_same(result.values[1], WEIGHT[0] - 0.6 * WEIGHT[int(nearest[1, 0])])


def test_logits_are_computed_if_they_are_not_given():
    method_run = MethodRun.resolve(METHODS.get("saliency"), {}, Preprocessing(), score=NEAREST)
    targets = torch.tensor([0])
    result = method_run.attribute(MODEL, X[:1], targets, ComputeOptions())
    toys.assert_same(result.values, SLOPES[None])
    assert (result.cost.forwards, result.cost.backwards, result.cost.checks) == (1, 1, 1)
    given = method_run.attribute(MODEL, X[:1], targets, ComputeOptions(), logits=torch.tensor([[0.0, 3, 2, 5]]))
    toys.assert_same(given.values, (WEIGHT[0] - 0.6 * WEIGHT[2])[None])
    assert given.cost.checks == 0


def test_reruns_on_changed_images_keep_the_classes():
    method = f"saliency:score={NEAREST}"
    score = xplain.measure(MODEL, X[:1], SLOPES[None], "max-sensitivity", target=0, method=method, radius=0.2)
    assert float(score.values) < 1e-15


def test_reruns_count_the_logits_as_checks():
    method_run = MethodRun.resolve(METHODS.get("saliency"), {}, Preprocessing(), score=NEAREST)
    oracle = Oracle(MODEL)
    explain_again = method_run.explainer(MODEL, X[:1], ComputeOptions(), oracle)
    rows, image = X[:1].expand(3, -1, -1, -1) + 0.05, torch.zeros(3, dtype=torch.long)
    for _ in range(2):
        toys.assert_same(explain_again(rows, torch.zeros_like(image), None, image), SLOPES.expand(3, -1, -1, -1))
    assert (oracle.cost.forwards, oracle.cost.checks) == (6, 1)


@pytest.mark.parametrize("kind", ["square", "gaussian"])
def test_infidelity_of_the_exact_slopes_is_zero(kind):
    options = {"perturbations": 9, "target": 0, "kind": kind, "method": f"saliency:score={NEAREST}"}
    assert float(xplain.measure(MODEL, X[:1], SLOPES[None], "infidelity", **options).values) < 1e-24
    assert float(xplain.measure(MODEL, X[:1], WEIGHT[:1], "infidelity", **options).values) > 1e-3


def test_labels_of_a_sigmoid_model_are_compared_by_their_logits():
    classifier = with_output(MODEL.model, "sigmoid", 4)
    values = xplain.attribute(classifier, X[:1], "saliency", target=0, score=NEAREST).values
    toys.assert_same(values, SLOPES[None])


@pytest.mark.parametrize("method", ["grad-cam", "saliency", "lrp", "rise"])
def test_one_logit_is_refused(method):
    classifier = with_output(toys.small_net(1, classes=1), "binary", 2)
    with pytest.raises(UsageError) as error:
        xplain.attribute(classifier, X, method, score="contrast")
    assert str(error.value) == (
        "score=contrast:gamma=0.6,classes=3 is not defined, because the model has one logit, that of a class over the other; "
        "use the score logit"
    )


def test_parameters_may_be_an_object():
    given = xplain.attribute(MODEL, X[:1], "saliency", target=0, score=ContrastScore(gamma=1, classes=2)).values
    toys.assert_same(given, (WEIGHT[0] - (WEIGHT[1] + WEIGHT[2]) / 2)[None])
    with pytest.raises(UsageError, match=r"^unknown score 'contrast:gamma=-1,classes=3'; use logit"):
        xplain.attribute(MODEL, X[:1], "saliency", score=ContrastScore(-1))


def test_unknown_scores_are_refused():
    for score, hint in (
        ("contrst", "did you mean 'contrast'?"),
        ("contrast:gamma=-1", "use logit, prob, "),
        (3, "use logit"),
    ):
        for options in ({"score": score}, {"method": f"saliency:score={score}"}):
            with pytest.raises(UsageError) as error:
                xplain.attribute(MODEL, X, **({"method": "saliency"} | options))
            assert str(error.value).startswith(f"unknown score {options.get('score', str(score))!r}; {hint}")


def test_finer_cam_agrees_with_torchcam():
    """Chosen by torchcam, and given."""
    methods = pytest.importorskip("torchcam.methods")
    net = toys.small_net(1, scale=15.0, classes=7)
    classifier = toys.classifier(net)
    for name, base in (("grad-cam", methods.GradCAM), ("layer-cam", methods.LayerCAM)):
        for against in (None, [0, 5]):
            for image in X:
                with methods.FinerCAM(net, "act2", base_method=base) as extractor:
                    scores = net(image[None].clone().requires_grad_())
                    given = {} if against is None else {"comparison_idx": against}
                    (coarse,) = extractor(3, scores, normalized=False, **given)
                values = xplain.attribute(
                    classifier, image[None], name, target=3, score="contrast", against=against, layer="act2"
                ).values
                toys.assert_same(values[0, 0], upsample(coarse[0].detach(), 8, 10), rtol=1e-6)
                assert float(values.max()) > 0


def test_grad_cam_of_a_contrast_equals_reference():
    """The gradient of z_t - 0.6 mean z_i, channel by channel."""
    net = toys.small_net(1, scale=15.0, classes=7)
    result = xplain.attribute(toys.classifier(net), X, "grad-cam", target=3, score="contrast", layer="act1")
    for i, image in enumerate(X):
        logits = net(image[None])[0].tolist()
        others = sorted((c for c in range(7) if c != 3), key=lambda c: abs(logits[c] - logits[3]))[:3]
        activations, slopes = reference.read(net, net.act1, image, 3)
        for index in others:
            slopes = slopes - 0.6 / 3 * reference.read(net, net.act1, image, index)[1]
        coarse = sum(slope.mean() * activation for slope, activation in zip(slopes, activations, strict=True))
        toys.assert_same(result.values[i, 0], upsample(coarse.clamp(min=0), 8, 10))
        assert result.details["contrasts"][i].tolist() == others
