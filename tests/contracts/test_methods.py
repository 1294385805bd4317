"""What every attribution method must keep to, whichever it is: tests over the registry."""

import copy
import re
from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache

import pytest
import torch

import xplain
import xplain.pipelines.attribution
from tests.contracts import quick
from tests.helpers import toys
from tests.helpers.on_models import count_rows
from tests.helpers.state import state
from xplain.core.errors import InputError, UsageError
from xplain.core.registry import METHODS, MethodSpec
from xplain.models.optimize import inference_copy

SPECS = list(METHODS)
CONTROLS = {spec.name for spec in SPECS if spec.function.__module__ == "xplain.methods.controls"}
BLIND = CONTROLS | {"attention-rollout"}  # the same for every target
ATTENTIVE = {"attention-rollout", "attention-relevance"}  # they explain attention, which the usual network has not
AXIOMS = {"completeness", "linearity", "dummy", "symmetry", "implementation-invariance"}
X = toys.images(3)
TARGETS = [2, 0, 5]

every_method = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def network(spec: MethodSpec) -> torch.nn.Module:
    """A small network; its pooling is a mean, since the maximum of equal values, as on a black image, has no gradient."""
    if spec.name in ATTENTIVE:
        return toys.token_net(1, classes=7)
    net = toys.small_net(1, scale=15.0, classes=7)
    net.pool = torch.nn.AvgPool2d(2)
    return net


@cache
def made(attentive: bool) -> tuple[xplain.Classifier, Callable[[torch.Tensor], torch.Tensor]]:
    return toys.with_pixels(network(METHODS.get("attention-rollout" if attentive else "saliency")))


def logits(spec: MethodSpec) -> torch.Tensor:
    """Of the usual images, written by hand."""
    return made(spec.name in ATTENTIVE)[1](X)


def explain(spec: MethodSpec, classifier=None, images=X, target=None, **settings) -> xplain.Attribution:
    classifier = classifier or made(spec.name in ATTENTIVE)[0]
    return xplain.attribute(classifier, images, spec.name, target=target, **quick(spec) | settings)


@lru_cache
def usual(name: str) -> xplain.Attribution:
    """What most tests compare with."""
    return explain(METHODS.get(name), target=TARGETS)


@lru_cache
def untargeted(name: str) -> xplain.Attribution:
    return explain(METHODS.get(name))


@lru_cache
def alone(name: str, i: int) -> xplain.Attribution:
    """The same for one image by itself."""
    return explain(METHODS.get(name), images=X[i : i + 1], target=TARGETS[i])


@lru_cache
def is_random(name: str) -> bool:
    """Whether another seed gives another map at these settings."""
    return not torch.equal(usual(name).values, explain(METHODS.get(name), target=TARGETS, seed=1).values)


# --------------------------------------------------------------------- results


@every_method
def test_gives_a_finite_map_of_the_images_size_and_type(spec):
    found = untargeted(spec.name)
    assert found.values.shape in {(3, 3, 8, 10), (3, 1, 8, 10)}
    assert found.values.dtype == torch.float64
    assert found.values.isfinite().all()
    assert float(found.values.abs().max()) > 0.0
    assert not found.values.requires_grad
    assert found.target.tolist() == logits(spec).argmax(dim=1).tolist()
    for each in (*found.details.values(), *found.flags.values()):
        assert len(each) == 3
    assert all(flag.dtype == torch.bool and flag.shape == (3,) for flag in found.flags.values())
    assert found.expected is None or found.expected.shape == (3,)


@every_method
def test_claims_completeness_with_the_sum_it_should_have_or_not_at_all(spec):
    assert (untargeted(spec.name).expected is not None) == ("completeness" in spec.axioms)


@every_method
def test_no_target_means_the_top_class(spec):
    tops = logits(spec).argmax(dim=1)
    assert torch.equal(untargeted(spec.name).values, explain(spec, target=tops).values)


@every_method
def test_float32_agrees_with_float64(spec):
    """To 1e-4 of the largest value; methods that amplify rounding say so, and need only be finite."""
    single, _ = toys.with_pixels(network(spec).float())
    values = explain(spec, single, X.float(), target=TARGETS).values
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    if not spec.rounding:
        exact = usual(spec.name).values
        assert float((values - exact).abs().max() / exact.abs().max()) < 1e-4


@every_method
def test_the_same_seed_gives_the_same_bytes(spec):
    again = explain(spec, target=TARGETS).values
    assert again.numpy().tobytes() == usual(spec.name).values.numpy().tobytes()


@every_method
def test_another_seed_gives_another_map_exactly_for_methods_that_draw(spec):
    """Methods that draw at some setting only (a uniform baseline) must differ there."""
    if "rng" not in spec.needs:
        assert not is_random(spec.name)
        return
    choices = [{each.name: choice} for each in spec.parameters.values() for choice in each.choices]
    assert is_random(spec.name) or any(
        not torch.equal(explain(spec, seed=0, **choice).values, explain(spec, seed=1, **choice).values)
        for choice in choices
    )


# --------------------------------------------------------------------- batches


@every_method
def test_a_batch_equals_its_images_one_by_one(spec):
    for i in range(3):
        toys.assert_same(alone(spec.name, i).values[0], usual(spec.name).values[i])


@every_method
def test_each_image_may_have_its_own_rivals(spec):
    """The second image among others and by itself."""
    contrasts = torch.tensor([[0, 3], [2, 4], [1, 6]])
    together = explain(spec, target=TARGETS, against=contrasts).values
    if spec.name not in BLIND:
        assert not torch.equal(together, usual(spec.name).values)
    single = explain(spec, images=X[1:2], target=TARGETS[1], against=contrasts[1]).values
    toys.assert_same(together[1], single[0])


@every_method
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_rows_a_call_do_not_matter(spec, batch_size):
    toys.assert_same(explain(spec, target=TARGETS, batch_size=batch_size).values, usual(spec.name).values)


@every_method
@pytest.mark.parametrize("batch_size", [3, 8])
def test_a_call_may_hold_parts_of_any_images(spec, batch_size, monkeypatch):
    """All images handed to the method together, which then splits their points over calls of 3 or 8 rows."""
    monkeypatch.setattr(MethodRun, "images_per_call", lambda *_: len(X))
    toys.assert_same(explain(spec, target=TARGETS, batch_size=batch_size).values, usual(spec.name).values)


@every_method
def test_the_order_of_the_images_does_not_matter(spec):
    order = [2, 0, 1]
    values = explain(spec, images=X[order], target=[TARGETS[i] for i in order]).values
    toys.assert_same(values, usual(spec.name).values[order])


@every_method
def test_the_numbers_of_the_classes_do_not_matter(spec):
    """Class c of one network is class order[c] of the other."""
    order = torch.tensor([3, 5, 0, 6, 1, 4, 2])
    net = network(spec)
    other = copy.deepcopy(net)
    other.head.weight.data[order], other.head.bias.data[order] = net.head.weight.data, net.head.bias.data
    contrasts = torch.tensor([[0, 3], [2, 4], [1, 6]])
    against = [contrasts, order[contrasts]] if "against" in spec.needs else [None, None]
    one = explain(spec, target=TARGETS, against=against[0]).values
    two = explain(spec, toys.with_pixels(other)[0], target=order[TARGETS], against=against[1]).values
    toys.assert_same(two, one)


@every_method
def test_height_and_width_are_treated_alike(spec):
    """A network of transposed kernels sees the transposed images: the maps are transposed (8 x 10 and 10 x 8)."""
    net = network(spec)
    for conv in (net.conv1, net.conv2):
        conv.weight.data = conv.weight.data.mT.contiguous()
    values = explain(spec, toys.with_pixels(net)[0], X.mT.contiguous(), target=TARGETS).values
    assert values.shape[-2:] == (10, 8)
    assert values.isfinite().all()
    if not is_random(spec.name):
        toys.assert_same(values, usual(spec.name).values.mT)


# ----------------------------------------------------------- nothing is touched


@every_method
def test_leaves_the_model_and_the_images_as_they_were(spec):
    """A model in training mode, half of it frozen: the maps are those of evaluation, and the model stays as it was."""
    classifier, _ = toys.with_pixels(network(spec).train())
    classifier.train()
    classifier.model.norm1.eval()
    classifier.model.conv1.requires_grad_(False)
    images, before = X.clone(), state(classifier)
    values = explain(spec, classifier, images, target=TARGETS).values
    assert state(classifier) == before
    assert torch.equal(images, X)
    assert not images.requires_grad
    assert torch.equal(values, usual(spec.name).values)


@every_method
def test_images_that_require_a_gradient_get_none(spec):
    images = X.clone().requires_grad_()
    found = explain(spec, images=images, target=TARGETS)
    tensors = [found.values, found.expected, *found.details.values(), *found.flags.values()]
    assert not any(each.requires_grad for each in tensors if each is not None)
    assert images.grad is None
    assert torch.equal(images.detach(), X)
    assert torch.equal(found.values, usual(spec.name).values)


@every_method
def test_works_where_gradients_are_switched_off(spec):
    with torch.no_grad():
        values = explain(spec, target=TARGETS).values
    assert torch.equal(values, usual(spec.name).values)


class FuseError(Exception):
    pass


def fused(spec: MethodSpec, fuse: dict) -> xplain.Classifier:
    """A classifier whose first convolution counts its calls and fails in number ``fuse["at"]``."""
    net = network(spec)

    def burn(_: object, inputs: tuple[torch.Tensor, ...], __: object) -> None:
        if inputs[0].shape[-2:] == (8, 10):
            fuse["calls"] += 1
            if fuse["calls"] == fuse["at"]:
                raise FuseError

    net.conv1.register_forward_hook(burn)
    return toys.with_pixels(net)[0]


def states(classifier: xplain.Classifier) -> list[dict]:
    """Of the classifier, and of the working copies that the methods run."""
    return [state(each) for each in (classifier, *(inference_copy(classifier, fold=fold) for fold in (False, True)))]


@every_method
def test_a_model_that_fails_is_left_as_it_was_and_works_again(spec):
    """In its second call (the first is the prediction) and in its last; the error comes through."""
    fuse = {"calls": 0, "at": 0}
    classifier = fused(spec, fuse)
    explain(spec, classifier, target=TARGETS)  # what is found once a model, is
    fuse["calls"] = 0
    whole = explain(spec, classifier, target=TARGETS).values
    calls, before = fuse["calls"], states(classifier)
    for at in {min(2, calls), calls}:
        fuse.update(calls=0, at=at)
        with pytest.raises(FuseError):
            explain(spec, classifier, target=TARGETS)
        assert states(classifier) == before
    fuse.update(calls=0, at=0)
    assert torch.equal(explain(spec, classifier, target=TARGETS).values, whole)


# ------------------------------------------------------------------------ cost


def metered(spec: MethodSpec) -> tuple[xplain.Classifier, Counter[str]]:
    """A classifier, and the rows of its forward and backward passes."""
    classifier, _ = toys.with_pixels(network(spec))
    return classifier, count_rows(classifier, X.shape[2:])


@every_method
@pytest.mark.parametrize("batch_size", ["auto", 2])
def test_costs_what_it_claims_and_counts_every_row(spec, batch_size):
    classifier, rows = metered(spec)
    cost = explain(spec, classifier, target=TARGETS, batch_size=batch_size).cost
    assert cost.forwards + cost.checks == rows["forwards"]
    assert cost.backwards == rows["backwards"]
    forwards, backwards = spec.cost(**spec.resolve(quick(spec)))
    if spec.at_most:
        assert cost.forwards <= 3 * forwards
        assert cost.backwards <= 3 * backwards
    else:
        assert (cost.forwards, cost.backwards) == (3 * forwards, 3 * backwards)


@every_method
def test_what_each_image_cost_adds_up_and_is_the_same_when_it_is_alone(spec):
    found = usual(spec.name)
    for kind in ("forwards", "backwards"):
        each = found.details[kind].tolist()
        assert sum(each) == getattr(found.cost, kind)
        assert [getattr(alone(spec.name, i).cost, kind) for i in range(3)] == each


@pytest.mark.parametrize("name", ["saliency", "integrated-gradients", "agi", "rise"])
def test_progress_is_told_the_rows_of_every_call(name):
    """Rows, not passes: a forward and two backward passes of 3 rows are 3 rows. The prediction comes before."""
    told, classifier = [], toys.with_pixels(network(METHODS.get(name)))[0]
    rows = toys.watch(classifier)
    explain(METHODS.get(name), classifier, target=TARGETS, batch_size=3, progress=told.append)
    assert told == rows[1:]


CHOICES = [
    pytest.param(spec, {each.name: value}, id=f"{spec.name}-{each.name}={value}")
    for spec in SPECS
    for each in spec.parameters.values()
    for value in (each.choices or ((True, False) if each.kind is bool else ()))
    if value != each.default
]


@pytest.mark.parametrize(("spec", "choice"), CHOICES)
def test_every_choice_keeps_the_contract(spec, choice):
    """Finite; an image among others in calls of 3 rows as by itself; every row counted, for its image, within the claim."""
    classifier, rows = metered(spec)
    found = explain(spec, classifier, target=TARGETS, batch_size=3, **choice)
    single = explain(spec, images=X[1:2], target=TARGETS[1], **choice)
    assert found.values.isfinite().all()
    toys.assert_same(found.values[1], single.values[0])
    assert (found.cost.forwards + found.cost.checks, found.cost.backwards) == (rows["forwards"], rows["backwards"])
    claims = dict(zip(("forwards", "backwards"), spec.cost(**spec.resolve(quick(spec) | choice)), strict=True))
    for kind, claim in claims.items():
        each = found.details[kind].tolist()
        assert sum(each) == getattr(found.cost, kind)
        assert each[1] == getattr(single.cost, kind)
        assert max(each) <= claim
        assert spec.at_most or min(each) == claim


# ---------------------------------------------------------------------- limits


@every_method
def test_a_constant_model_gives_a_finite_map(spec):
    net = network(spec)
    net.head.weight.data.zero_()
    values = explain(spec, toys.with_pixels(net)[0]).values
    assert values.isfinite().all()
    if "dummy" in spec.axioms:
        assert float(values.abs().max()) == 0.0


@every_method
@pytest.mark.parametrize("score", [None, "prob"])
def test_a_saturated_softmax_gives_a_finite_map(spec, score):
    """Logits a thousand apart in float32: the probability is 1 and its gradient 0. Some methods refuse the score, by name."""
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
def test_images_that_are_not_finite_are_refused(spec, wrong):
    images = X.clone()
    images[1, 2, 3, 4] = wrong
    with pytest.raises(InputError, match="NaN"):
        explain(spec, images=images)


@every_method
def test_a_black_image_gives_a_finite_map(spec):
    assert explain(spec, images=torch.zeros_like(X)).values.isfinite().all()


# ---------------------------------------------------------------- registration


@every_method
def test_says_where_it_comes_from_and_what_it_does(spec):
    assert (spec.paper is None) == (spec.name in CONTROLS)
    if spec.paper is not None:
        assert spec.paper.title
        assert spec.paper.authors
        assert 1950 <= spec.paper.year <= 2026
    assert spec.summary.endswith(".")
    assert spec.axioms <= AXIOMS


@every_method
def test_is_named_alike_outside_and_inside(spec):
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", spec.name)
    assert spec.function.__name__ == spec.name.replace("-", "_")
    home = spec.function.__module__.removeprefix("xplain.methods.")
    assert home == ("controls" if spec.name in CONTROLS else spec.function.__name__)
    assert METHODS.get(spec.alias or spec.name) is spec


def test_controls_are_there():
    assert {"random", "sobel", "center"} <= CONTROLS
