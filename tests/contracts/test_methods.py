"""Contract tests of the attribution methods: each test runs for every registered method."""

import copy
import re
from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache

import pytest
import torch

import xplain
from tests.contracts import quick
from tests.helpers import toys
from tests.helpers.on_models import count_rows, possible_forwards
from tests.helpers.state import state
from xplain.core.errors import InputError, UsageError
from xplain.core.registry import METHODS, MethodSpec
from xplain.models.optimize import inference_copy
from xplain.pipelines.method_run import MethodRun

SPECS = list(METHODS)
CONTROLS = {spec.name for spec in SPECS if spec.function.__module__ == "xplain.methods.controls"}
TARGET_INDEPENDENT = CONTROLS | {"attention-rollout", "eigen-cam"}
ATTENTION_METHODS = {
    "attention-rollout",
    "attention-relevance",
    "legrad",
    "grad-eclip",
}  # they need a network with attention
AXIOMS = {"completeness", "sensitivity-a", "linearity", "dummy", "symmetry", "implementation-invariance"}
X = toys.images(3)
TARGETS = [2, 0, 5]

every_method = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def network(spec: MethodSpec) -> torch.nn.Module:
    """Return a small network with average pooling, since the gradient of max-pooling is undefined on a constant image."""
    if spec.name in ATTENTION_METHODS:
        return toys.token_net(1, classes=7)
    net = toys.small_net(1, scale=15.0, classes=7)
    net.pool = torch.nn.AvgPool2d(2)
    return net


@cache
def make_classifier(has_attention: bool) -> tuple[xplain.Classifier, Callable[[torch.Tensor], torch.Tensor]]:
    return toys.with_pixels(network(METHODS.get("attention-rollout" if has_attention else "saliency")))


def expected_logits(spec: MethodSpec) -> torch.Tensor:
    """Return the logits of X, computed without the package."""
    return make_classifier(spec.name in ATTENTION_METHODS)[1](X)


def explain(spec: MethodSpec, classifier=None, images=X, target=None, **settings) -> xplain.Attribution:
    classifier = classifier or make_classifier(spec.name in ATTENTION_METHODS)[0]
    return xplain.attribute(classifier, images, spec.name, target=target, **quick(spec) | settings)


@lru_cache
def default_attribution(name: str) -> xplain.Attribution:
    """Return the attribution that most tests compare with."""
    return explain(METHODS.get(name), target=TARGETS)


@lru_cache
def untargeted(name: str) -> xplain.Attribution:
    return explain(METHODS.get(name))


@lru_cache
def single_attribution(name: str, i: int) -> xplain.Attribution:
    """Return the attribution of image i, explained without the other images."""
    return explain(METHODS.get(name), images=X[i : i + 1], target=TARGETS[i])


@lru_cache
def is_random(name: str) -> bool:
    """Return whether another seed gives another map at these settings."""
    return not torch.equal(default_attribution(name).values, explain(METHODS.get(name), target=TARGETS, seed=1).values)


@every_method
def test_method_returns_finite_map(spec):
    attribution = untargeted(spec.name)
    assert attribution.values.shape in {(3, 3, 8, 10), (3, 1, 8, 10)}
    assert attribution.values.dtype == torch.float64
    assert attribution.values.isfinite().all()
    assert float(attribution.values.abs().max()) > 0.0
    assert not attribution.values.requires_grad
    assert attribution.target.tolist() == expected_logits(spec).argmax(dim=1).tolist()
    for per_image in (*attribution.details.values(), *attribution.flags.values()):
        assert len(per_image) == 3
    assert all(flag.dtype == torch.bool and flag.shape == (3,) for flag in attribution.flags.values())
    assert attribution.expected is None or attribution.expected.shape == (3,)


@every_method
def test_method_expects_sum_if_complete(spec):
    assert (untargeted(spec.name).expected is not None) == ("completeness" in spec.axioms)


@every_method
def test_method_default_target_is_top_class(spec):
    tops = expected_logits(spec).argmax(dim=1)
    assert torch.equal(untargeted(spec.name).values, explain(spec, target=tops).values)


@every_method
def test_method_float32_equals_float64(spec):
    """Within 1e-4 of the largest value; methods with ``rounding`` must only be finite."""
    single, _ = toys.with_pixels(network(spec).float())
    values = explain(spec, single, X.float(), target=TARGETS).values
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    if not spec.rounding:
        exact = default_attribution(spec.name).values
        assert float((values - exact).abs().max() / exact.abs().max()) < 1e-4


@every_method
def test_method_is_deterministic_per_seed(spec):
    again = explain(spec, target=TARGETS).values
    assert again.numpy().tobytes() == default_attribution(spec.name).values.numpy().tobytes()


@every_method
def test_method_depends_on_seed_if_random(spec):
    """Methods that are random for certain choices only (a uniform baseline) must differ for one of them."""
    if "rng" not in spec.needs:
        assert not is_random(spec.name)
        return
    choices = [{parameter.name: choice} for parameter in spec.parameters.values() for choice in parameter.choices]
    assert is_random(spec.name) or any(
        not torch.equal(explain(spec, seed=0, **choice).values, explain(spec, seed=1, **choice).values)
        for choice in choices
    )


@every_method
def test_method_batch_equals_single_images(spec):
    for i in range(3):
        toys.assert_same(single_attribution(spec.name, i).values[0], default_attribution(spec.name).values[i])


@every_method
def test_method_contrasts_per_image(spec):
    """The second image gives the same map in a batch and alone."""
    contrasts = torch.tensor([[0, 3], [2, 4], [1, 6]])
    together = explain(spec, target=TARGETS, against=contrasts).values
    if spec.name not in TARGET_INDEPENDENT:
        assert not torch.equal(together, default_attribution(spec.name).values)
    single = explain(spec, images=X[1:2], target=TARGETS[1], against=contrasts[1]).values
    toys.assert_same(together[1], single[0])


@every_method
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_method_ignores_batch_size(spec, batch_size):
    toys.assert_same(explain(spec, target=TARGETS, batch_size=batch_size).values, default_attribution(spec.name).values)


@every_method
@pytest.mark.parametrize("batch_size", [3, 8])
def test_method_ignores_split_of_images(spec, batch_size, monkeypatch):
    """The method gets all images at once, and their points are split into model calls of 3 or 8 rows."""
    monkeypatch.setattr(MethodRun, "images_per_call", lambda *_: len(X))
    toys.assert_same(explain(spec, target=TARGETS, batch_size=batch_size).values, default_attribution(spec.name).values)


@every_method
def test_method_ignores_image_order(spec):
    order = [2, 0, 1]
    values = explain(spec, images=X[order], target=[TARGETS[i] for i in order]).values
    toys.assert_same(values, default_attribution(spec.name).values[order])


@every_method
def test_method_ignores_class_order(spec):
    """Class c of the first network is class order[c] of the second."""
    order = torch.tensor([3, 5, 0, 6, 1, 4, 2])
    net = network(spec)
    permuted = copy.deepcopy(net)
    permuted.head.weight.data[order], permuted.head.bias.data[order] = net.head.weight.data, net.head.bias.data
    contrasts = torch.tensor([[0, 3], [2, 4], [1, 6]])
    against = [contrasts, order[contrasts]] if "against" in spec.needs else [None, None]
    values = explain(spec, target=TARGETS, against=against[0]).values
    permuted_values = explain(spec, toys.with_pixels(permuted)[0], target=order[TARGETS], against=against[1]).values
    toys.assert_same(permuted_values, values)


@every_method
def test_method_commutes_with_transposition(spec):
    """A network with transposed kernels gives transposed maps of transposed images (8 x 10 and 10 x 8)."""
    net = network(spec)
    for conv in (net.conv1, net.conv2):
        conv.weight.data = conv.weight.data.mT.contiguous()
    values = explain(spec, toys.with_pixels(net)[0], X.mT.contiguous(), target=TARGETS).values
    assert values.shape[-2:] == (10, 8)
    assert values.isfinite().all()
    if not is_random(spec.name):
        toys.assert_same(values, default_attribution(spec.name).values.mT)


@every_method
def test_method_does_not_change_model_or_images(spec):
    """A half frozen model in training mode gives the maps of evaluation mode, and stays unchanged."""
    classifier, _ = toys.with_pixels(network(spec).train())
    classifier.train()
    classifier.model.norm1.eval()
    classifier.model.conv1.requires_grad_(False)
    images, before = X.clone(), state(classifier)
    values = explain(spec, classifier, images, target=TARGETS).values
    assert state(classifier) == before
    assert torch.equal(images, X)
    assert not images.requires_grad
    assert torch.equal(values, default_attribution(spec.name).values)


@every_method
def test_method_detaches_images(spec):
    images = X.clone().requires_grad_()
    attribution = explain(spec, images=images, target=TARGETS)
    tensors = [attribution.values, attribution.expected, *attribution.details.values(), *attribution.flags.values()]
    assert not any(tensor.requires_grad for tensor in tensors if tensor is not None)
    assert images.grad is None
    assert torch.equal(images.detach(), X)
    assert torch.equal(attribution.values, default_attribution(spec.name).values)


@every_method
def test_method_runs_under_no_grad(spec):
    with torch.no_grad():
        values = explain(spec, target=TARGETS).values
    assert torch.equal(values, default_attribution(spec.name).values)


class PlannedError(Exception):
    """Error raised by a failing model."""


def failing_classifier(spec: MethodSpec, failure: dict) -> xplain.Classifier:
    """Return a classifier whose first convolution counts its calls and fails in call ``failure["at"]``."""
    net = network(spec)

    def count_and_fail(_: object, inputs: tuple[torch.Tensor, ...], __: object) -> None:
        if inputs[0].shape[-2:] == (8, 10):
            failure["calls"] += 1
            if failure["calls"] == failure["at"]:
                raise PlannedError

    net.conv1.register_forward_hook(count_and_fail)
    return toys.with_pixels(net)[0]


def states(classifier: xplain.Classifier) -> list[dict]:
    """Return the states of the classifier and of the working copies that the methods run."""
    copies = [inference_copy(classifier, fold=fold) for fold in (False, True)]
    return [state(model) for model in (classifier, *copies)]


@every_method
def test_method_recovers_from_model_error(spec):
    """The model fails in its second call (the first is the prediction) or in its last; the error propagates."""
    failure = {"calls": 0, "at": 0}
    classifier = failing_classifier(spec, failure)
    explain(spec, classifier, target=TARGETS)  # fills the caches of the model
    failure["calls"] = 0
    expected = explain(spec, classifier, target=TARGETS).values
    calls, before = failure["calls"], states(classifier)
    for at in {min(2, calls), calls}:
        failure.update(calls=0, at=at)
        with pytest.raises(PlannedError):
            explain(spec, classifier, target=TARGETS)
        assert states(classifier) == before
    failure.update(calls=0, at=0)
    assert torch.equal(explain(spec, classifier, target=TARGETS).values, expected)


def counting_classifier(spec: MethodSpec) -> tuple[xplain.Classifier, Counter[str]]:
    """Return a classifier and the counter of the rows of its forward and backward passes."""
    classifier, _ = toys.with_pixels(network(spec))
    return classifier, count_rows(classifier, X.shape[2:])


@every_method
@pytest.mark.parametrize("batch_size", ["auto", 2])
def test_method_cost_equals_claim(spec, batch_size):
    classifier, rows = counting_classifier(spec)
    cost = explain(spec, classifier, target=TARGETS, batch_size=batch_size).cost
    assert cost.forwards + cost.checks in possible_forwards(rows)
    assert cost.backwards == rows["backwards"]
    forwards, backwards = spec.cost(**spec.resolve(quick(spec)))
    if spec.at_most:
        assert cost.forwards <= 3 * forwards
        assert cost.backwards <= 3 * backwards
    else:
        assert (cost.forwards, cost.backwards) == (3 * forwards, 3 * backwards)


@every_method
def test_method_cost_per_image(spec):
    attribution = default_attribution(spec.name)
    for kind in ("forwards", "backwards"):
        rows = attribution.details[kind].tolist()
        assert sum(rows) == getattr(attribution.cost, kind)
        assert [getattr(single_attribution(spec.name, i).cost, kind) for i in range(3)] == rows


@pytest.mark.parametrize("name", ["saliency", "integrated-gradients", "agi", "rise"])
def test_progress_gets_rows_per_call(name):
    """Rows, not passes: one forward and two backward passes of 3 rows report 3 rows. The prediction is not reported."""
    reported, classifier = [], toys.with_pixels(network(METHODS.get(name)))[0]
    rows = toys.watch(classifier)
    explain(METHODS.get(name), classifier, target=TARGETS, batch_size=3, progress=reported.append)
    assert reported == rows[1:]


# no segment counts as aggressive: a map of zeros is checked with extra rows
COMPANIONS = {("mfaba", "other"): {"within": 1e-9}}
CHOICES = [
    pytest.param(
        spec,
        {parameter.name: value} | COMPANIONS.get((spec.name, value), {}),
        id=f"{spec.name}-{parameter.name}={value}",
    )
    for spec in SPECS
    for parameter in spec.parameters.values()
    for value in (*parameter.choices, *parameter.words, *((True, False) if parameter.kind is bool else ()))
    if value != parameter.default
]


@pytest.mark.parametrize(("spec", "choice"), CHOICES)
def test_method_choice_keeps_contract(spec, choice):
    """Values are finite and independent of the batch; every row is counted for its image, within the claim."""
    classifier, rows = counting_classifier(spec)
    attribution = explain(spec, classifier, target=TARGETS, batch_size=3, **choice)
    single = explain(spec, images=X[1:2], target=TARGETS[1], **choice)
    assert attribution.values.isfinite().all()
    toys.assert_same(attribution.values[1], single.values[0])
    assert attribution.cost.forwards + attribution.cost.checks in possible_forwards(rows)
    assert attribution.cost.backwards == rows["backwards"]
    claims = dict(zip(("forwards", "backwards"), spec.cost(**spec.resolve(quick(spec) | choice)), strict=True))
    for kind, claim in claims.items():
        rows_per_image = attribution.details[kind].tolist()
        assert sum(rows_per_image) == getattr(attribution.cost, kind)
        assert rows_per_image[1] == getattr(single.cost, kind)
        assert max(rows_per_image) <= claim
        assert spec.at_most or "auto" in choice.values() or min(rows_per_image) == claim


@every_method
def test_method_with_constant_model(spec):
    net = network(spec)
    net.head.weight.data.zero_()
    values = explain(spec, toys.with_pixels(net)[0]).values
    assert values.isfinite().all()
    if "dummy" in spec.axioms:
        assert float(values.abs().max()) == 0.0


@every_method
@pytest.mark.parametrize("score", [None, "prob"])
def test_method_with_saturated_softmax(spec, score):
    """Logits differ by 1000 in float32: the probability is 1 and its gradient 0. Certain methods reject score=prob."""
    net = network(spec).float()
    net.head.bias.data[4] = 1000.0
    try:
        values = explain(spec, toys.with_pixels(net)[0], X.float(), score=score).values
    except UsageError as refusal:
        assert score == "prob" != spec.score
        assert f"{spec.name} is not defined for score=prob" in str(refusal)  # noqa: PT017
    else:
        assert values.isfinite().all()


@every_method
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_method_rejects_non_finite_images(spec, wrong):
    images = X.clone()
    images[1, 2, 3, 4] = wrong
    with pytest.raises(InputError, match="NaN"):
        explain(spec, images=images)


@every_method
def test_method_with_black_image(spec):
    assert explain(spec, images=torch.zeros_like(X)).values.isfinite().all()


@every_method
def test_method_has_paper_and_summary(spec):
    assert (spec.paper is None) == (spec.name in CONTROLS)
    if spec.paper is not None:
        assert spec.paper.title
        assert spec.paper.authors
        assert 1950 <= spec.paper.year <= 2026
    assert spec.summary.endswith(".")
    assert spec.axioms | spec.violates | spec.undecided.keys() <= AXIOMS
    assert not spec.axioms & spec.violates


@every_method
def test_method_name_matches_function(spec):
    assert re.fullmatch(r"[a-z]+[0-9]?(-[a-z]+)*", spec.name)
    assert spec.function.__name__ == spec.name.replace("-", "_")
    module = spec.function.__module__.removeprefix("xplain.methods.")
    assert module == ("controls" if spec.name in CONTROLS else spec.function.__name__)
    assert METHODS.get(spec.alias or spec.name) is spec


def test_controls_are_registered():
    assert {"random", "sobel", "center"} <= CONTROLS
