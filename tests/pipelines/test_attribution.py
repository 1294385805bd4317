"""``attribute`` and ``measure``: targets, rivals, baselines, parameters and groups of images."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError
from xplain.data.preprocessing import Preprocessing

LABELS = ["cat", "dog", "fox", "owl", "eel"]
WNIDS = ["n01", "n02", "n03", "n04", "n05"]
NET = toys.small_net(1, scale=15.0)
CLASSIFIER = toys.classifier(NET, labels=LABELS, wnids=WNIDS)
X = toys.images(3)


def in_a_line(value: object) -> str:
    return " ".join(repr(value).split())


def attribute(method: str = "saliency", images: Tensor = X, **options) -> xplain.Attribution:
    return xplain.attribute(CLASSIFIER, images, method, **options)


def gradient(index: int, image: Tensor) -> Tensor:
    """Of one logit at one image, on the raw network."""
    image = image[None].clone().requires_grad_()
    return torch.autograd.grad(NET(image)[0, index], image)[0][0]


def refused(call, *arguments, **options) -> str:
    with pytest.raises(UsageError) as error:
        call(*arguments, **options)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------- targets


def test_without_a_target_each_images_top_class_is_explained():
    found = attribute()
    assert found.target.tolist() == NET(X).argmax(dim=1).tolist()
    for value, index, image in zip(found.values, found.target.tolist(), X, strict=True):
        toys.assert_same(value, gradient(index, image))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (2, [2, 2, 2]),
        ("fox", [2, 2, 2]),
        ("Fox", [2, 2, 2]),
        ("n03", [2, 2, 2]),
        ("2", [2, 2, 2]),
        ([4], [4, 4, 4]),
        ([4, 0, 1], [4, 0, 1]),
        (["eel", "n01", 1], [4, 0, 1]),
        ((4, 0, 1), [4, 0, 1]),
        (torch.tensor([4, 0, 1]), [4, 0, 1]),
        (torch.tensor([4, 0, 1], dtype=torch.int32), [4, 0, 1]),
        (torch.tensor(3), [3, 3, 3]),
        (np.int64(3), [3, 3, 3]),
        (list(np.array([4, 0, 1])), [4, 0, 1]),
    ],
    ids=in_a_line,
)
def test_a_target_is_an_index_a_wnid_a_name_or_one_for_each_image(target, expected):
    found = attribute(target=target)
    assert found.target.tolist() == expected
    assert found.target.dtype == torch.int64
    for value, index, image in zip(found.values, expected, X, strict=True):
        toys.assert_same(value, gradient(index, image))


@pytest.mark.parametrize("target", [5, -1, 99, [0, 1, 5], torch.tensor([0, -2, 1])], ids=in_a_line)
def test_a_target_out_of_range_is_refused_with_the_range(target):
    text = refused(attribute, target=target)
    assert text.startswith("class index ")
    assert " is not in 0 .. 4; " in text


def test_a_target_out_of_range_is_refused_for_a_model_without_names():
    model = toys.classifier(NET)
    for target in (7, "7"):
        assert refused(xplain.attribute, model, X, "saliency", target=target).startswith(
            "class index 7 is not in 0 .. 4"
        )


def test_an_unknown_target_names_its_relatives():
    assert refused(attribute, target="foxx") == "unknown class 'foxx'; did you mean 'fox'?"


@pytest.mark.parametrize("target", [[0, 1], [0, 1, 2, 3], torch.tensor([0, 1])], ids=in_a_line)
def test_another_number_of_targets_than_images_is_refused(target):
    text = refused(attribute, target=target)
    assert text == f"{len(target)} targets for 3 images; pass one target, or one per image"


@pytest.mark.parametrize(
    "target",
    [1.5, [1.5, 0, 1], [True, False, True], torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3, 1, dtype=torch.long), []],
    ids=in_a_line,
)
def test_targets_that_are_no_class_indices_are_refused(target):
    refused(attribute, target=target)


# ------------------------------------------------------------------------------------------------- rivals


@pytest.mark.parametrize(
    ("against", "contrasts"),
    [
        (0, [[0]] * 3),
        ("cat", [[0]] * 3),
        ([0, 3], [[0, 3]] * 3),
        (["cat", "n04", 1], [[0, 3, 1]] * 3),
        (torch.tensor([0, 3]), [[0, 3]] * 3),
        (torch.tensor([[0, 3], [1, 4], [3, 1]]), [[0, 3], [1, 4], [3, 1]]),
    ],
    ids=in_a_line,
)
def test_against_rivals_a_gradient_is_the_targets_minus_the_mean_of_theirs(against, contrasts):
    found = attribute(target=2, against=against).values
    for value, some, image in zip(found, contrasts, X, strict=True):
        expected = gradient(2, image) - torch.stack([gradient(each, image) for each in some]).mean(dim=0)
        toys.assert_same(value, expected)


def test_integrated_gradients_against_rivals_are_the_same_combination():
    alone = [attribute("ig", target=index, steps=7).values for index in (2, 0, 3)]
    found = attribute("ig", target=2, against=[0, 3], steps=7)
    toys.assert_same(found.values, alone[0] - (alone[1] + alone[2]) / 2)
    black = torch.zeros_like(X)
    z = NET(X) - NET(black)
    toys.assert_same(found.expected, (z[:, 2] - (z[:, 0] + z[:, 3]) / 2).detach())


def test_the_runner_up_is_each_images_best_other_class():
    z = NET(X).detach()
    order = z.argsort(dim=1, descending=True)
    found = attribute(against="runner-up").values
    for value, (best, second), image in zip(found, order[:, :2].tolist(), X, strict=True):
        toys.assert_same(value, gradient(best, image) - gradient(second, image))
    last = order[:, -1]
    found = attribute(target=last, against="runner-up").values
    for value, target, best, image in zip(found, last.tolist(), order[:, 0].tolist(), X, strict=True):
        toys.assert_same(value, gradient(target, image) - gradient(best, image))


@pytest.mark.parametrize("against", [2, [0, 2], "fox", torch.tensor([[0], [1], [2]])], ids=in_a_line)
def test_the_target_among_the_rivals_is_refused(against):
    assert refused(attribute, target=2, against=against).startswith("a class cannot be explained against itself; ")


@pytest.mark.parametrize("method", ["agi", "saliency"])
def test_a_rival_that_is_the_top_class_of_one_image_is_refused(method):
    top = int(NET(X)[1].argmax())
    assert "against itself" in refused(attribute, method, against=top)


@pytest.mark.parametrize("against", [5, -1, [0, 7]], ids=in_a_line)
def test_a_rival_out_of_range_is_refused_with_the_range(against):
    assert " is not in 0 .. 4; " in refused(attribute, target=2, against=against)


def test_a_rival_given_twice_is_refused():
    assert refused(attribute, target=2, against=[0, 0]) == "a contrast class is repeated; pass each class once"
    assert "repeated" in refused(attribute, target=2, against=["cat", 0])


@pytest.mark.parametrize(
    "against", [[], [0.5], torch.zeros(2, 1, dtype=torch.long), torch.zeros(3, 0).long()], ids=in_a_line
)
def test_rivals_that_are_no_classes_of_each_image_are_refused(against):
    refused(attribute, target=2, against=against)


def test_a_model_of_one_class_has_no_runner_up():
    model = toys.classifier(toys.small_net(classes=1))
    assert "no runner-up" in refused(xplain.attribute, model, X, "saliency", against="runner-up")


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_agi_climbs_exactly_the_rivals(variant):
    options = {"target": 2, "variant": variant, "steps": 3}
    found = attribute("agi", against=[4, 0], **options)
    assert found.details["classes"].tolist() == [[4, 0]] * 3
    alone = [attribute("agi", against=each, **options).values for each in (4, 0)]
    assert alone[1].abs().max() > 0
    toys.assert_same(found.values, alone[0] + alone[1])
    first = attribute("agi", target=2, against=[4], variant=variant, steps=1, score="logit").values
    for value, image in zip(first, X, strict=True):  # one step by hand, of the plain target's gradient
        move = (image + 0.05 * gradient(4, image).sign()).clamp(0, 1) - image
        already = NET(image[None]).argmax() == 4
        toys.assert_same(value, torch.zeros_like(image) if already else -gradient(2, image) * move)


def test_agi_takes_other_rivals_for_each_image():
    against = torch.tensor([[0, 1], [4, 3], [1, 4]])
    found = attribute("agi", target=2, against=against, steps=2)
    assert torch.equal(found.details["classes"], against)
    for i in range(3):
        alone = xplain.attribute(CLASSIFIER, X[i : i + 1], "agi", target=2, against=against[i], steps=2)
        toys.assert_same(found.values[i], alone.values[0])


# ------------------------------------------------------------------------------------------------- baselines


LINEAR_WEIGHT = torch.linspace(-1, 1, 2 * 3 * 8 * 10, dtype=torch.float64).reshape(2, 3, 8, 10)
LINEAR = toys.classifier(toys.Linear(LINEAR_WEIGHT), preprocessing=Preprocessing((8, 10), 8))


def expected_gradients(images: Tensor, baselines: object, **options) -> Tensor:
    return xplain.attribute(LINEAR, images, "expected-gradients", target=1, baselines=baselines, **options).values


def test_given_baselines_are_what_the_image_is_compared_with():
    other = toys.images(1, seed=5)
    found = expected_gradients(X, other, samples=4)
    toys.assert_same(found, LINEAR_WEIGHT[1] * (X - other))


def test_the_explained_image_is_no_baseline_of_its_own():
    other = toys.images(1, seed=5)
    for baselines in (torch.cat([X[:1], other]), torch.cat([other, X[:1], X[:1]])):
        found = expected_gradients(X[:1], baselines, samples=20)
        toys.assert_same(found, LINEAR_WEIGHT[1] * (X[:1] - other))


def test_every_given_baseline_is_drawn():
    baselines = torch.stack([torch.full((3, 8, 10), level, dtype=torch.float64) for level in (0.0, 0.5, 1.0)])
    found = expected_gradients(X[:1], baselines, samples=300)
    level = (X[:1] - found / LINEAR_WEIGHT[1]).flatten()
    assert level.std() < 1e-9
    assert abs(level.mean() - 0.5) < 4 * (1 / 6 / 300) ** 0.5


def write_images(folder: Path, count: int, height: int = 8, width: int = 10) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        content = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(content).save(path)
    return paths


def read(path: Path) -> Tensor:
    return xplain.read_image(path, preprocessing=LINEAR.preprocessing).double()[None]


def test_a_directory_of_baselines_is_read_without_the_explained_image(tmp_path):
    paths = write_images(tmp_path / "refs", 2)
    for own, other in (paths, paths[::-1]):
        found = expected_gradients(read(own), str(tmp_path / "refs"), samples=10)
        toys.assert_same(found, LINEAR_WEIGHT[1] * (read(own) - read(other)))


def test_a_directory_that_changed_is_read_again(tmp_path):
    (path,) = write_images(tmp_path / "refs", 1)
    before = expected_gradients(X[:1], str(tmp_path / "refs"), samples=2)
    Image.new("RGB", (10, 8), "white").save(path)
    found = expected_gradients(X[:1], str(tmp_path / "refs"), samples=2)
    assert (before - found).abs().max() > 0.1
    toys.assert_same(found, LINEAR_WEIGHT[1] * (X[:1] - 1))


def test_baselines_that_are_only_the_explained_image_are_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no image but the explained one"):
        expected_gradients(X[:1], X[:1])
    (path,) = write_images(tmp_path / "refs", 1)
    with pytest.raises(InputError, match="no image but the explained one"):
        expected_gradients(read(path), str(tmp_path / "refs"))


@pytest.mark.parametrize("shape", [(3, 8, 10), (2, 3, 8, 9), (2, 1, 8, 10)])
def test_baselines_of_another_shape_are_an_input_error(shape):
    with pytest.raises(InputError, match=r"baselines \(.*\) for images \(\d, 3, 8, 10\); give \(N, C, H, W\)"):
        expected_gradients(X, torch.zeros(shape, dtype=torch.float64))


def test_a_directory_of_baselines_that_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no directory of baselines 'nowhere'"):
        expected_gradients(X, "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in the directory"):
        expected_gradients(X, str(tmp_path / "empty"))


# ------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("call", ["attribute", "measure"])
def test_whole_number_images_are_refused_with_the_way_out(dtype, call):
    images = torch.ones(2, 3, 8, 10, dtype=dtype)
    if call == "attribute":
        text = refused(attribute, images=images)
    else:
        text = refused(xplain.measure, CLASSIFIER, images, torch.ones(2, 3, 8, 10), "deletion", steps=2)
    name = str(dtype).removeprefix("torch.")
    assert text == (
        f"images are (2, 3, 8, 10) {name}, not floating point (B, C, H, W); "
        "divide 8-bit pixels by 255 and add the batch dimension"
    )


@pytest.mark.parametrize("shape", [(3, 8, 10), (8, 10), (1, 1, 3, 8, 10)])
def test_images_without_a_batch_axis_are_refused(shape):
    assert "not floating point (B, C, H, W)" in refused(attribute, images=torch.zeros(shape))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_an_input_error(bad):
    images = X.clone()
    images[1, 2, 3, 4] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        attribute(images=images)


def test_no_images_are_refused():
    for call in (
        lambda: attribute(images=X[:0]),
        lambda: xplain.measure(CLASSIFIER, X[:0], X[:0], "deletion", steps=2),
    ):
        with pytest.raises(xplain.XplainError):
            call()


def test_float32_images_are_explained_in_the_models_own_type():
    assert attribute(images=X.float()).values.dtype == torch.float64


# ------------------------------------------------------------------------------------------------- parameters


def test_an_unknown_method_or_metric_names_its_relatives():
    assert refused(attribute, "agii") == "unknown method 'agii'; did you mean 'agi'?"
    assert refused(attribute, "zzz") == "unknown method 'zzz'; see xplain list methods"
    text = refused(xplain.measure, CLASSIFIER, X, X, "delete")
    assert text == "unknown metric 'delete'; did you mean 'deletion'?"


def test_an_unknown_parameter_names_its_relatives_or_all_there_are():
    assert refused(attribute, "ig", step=3) == "integrated-gradients has no parameter 'step'; did you mean 'steps'?"
    text = refused(attribute, "ig", zzz=3)
    assert text == "integrated-gradients has no parameter 'zzz'; its parameters are: baseline, steps, rule"
    assert refused(attribute, "sobel", steps=3) == "sobel has no parameter 'steps'; its parameters are: none"


def test_a_parameter_out_of_range_names_the_rule():
    assert (
        refused(attribute, "ig", steps=0) == "integrated-gradients: steps=0 is not accepted; use a whole number from 1"
    )
    text = refused(attribute, "ig", rule="simpson")
    assert text.startswith("integrated-gradients: rule=simpson is not accepted; ")


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "many"])
def test_a_batch_size_that_is_no_number_of_rows_is_refused(batch_size):
    assert refused(attribute, batch_size=batch_size).startswith(f"batch size '{batch_size}' is not a number of rows")


def test_text_and_numbers_are_the_same_parameter():
    assert torch.equal(attribute("ig", steps="3").values, attribute("ig", steps=3).values)
    assert torch.equal(attribute("ig", batch_size="2").values, attribute("ig", batch_size=2).values)


def test_an_alias_is_the_method():
    assert torch.equal(attribute("ig", steps=3).values, attribute("integrated-gradients", steps=3).values)


@pytest.mark.parametrize("score", ["logit", "prob", "log-prob", "margin"])
def test_the_score_is_what_is_differentiated(score):
    scalar = {
        "logit": lambda z: z[2],
        "prob": lambda z: z.softmax(0)[2],
        "log-prob": lambda z: z.log_softmax(0)[2],
        "margin": lambda z: z[2] - max(z[i] for i in (0, 1, 3, 4)),
    }[score]
    for value, image in zip(attribute(target=2, score=score).values, X, strict=True):
        image = image[None].clone().requires_grad_()
        toys.assert_same(value, torch.autograd.grad(scalar(NET(image)[0]), image)[0][0])


# ------------------------------------------------------------------------------------------------- groups


METHODS = {
    "saliency": {},
    "smoothgrad": {"samples": 5},
    "ig": {"steps": 4, "baseline": "uniform"},
    "expected-gradients": {"samples": 5},
    "agi": {"steps": 2, "classes": 2},
    "grad-cam": {},
    "random": {},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 3, 4, "auto"])
def test_more_images_than_a_call_holds_are_explained_as_each_by_itself(method, batch_size):
    images = toys.images(7)
    target = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    together = attribute(method, images, target=target, batch_size=batch_size, seed=3, **METHODS[method])
    cost = xplain.Attribution(X).cost
    for i in range(7):
        alone = attribute(method, images[i : i + 1], target=int(target[i]), seed=3, **METHODS[method])
        toys.assert_same(together.values[i], alone.values[0])
        if together.expected is not None:
            toys.assert_same(together.expected[i], alone.expected[0])
        for name, detail in together.details.items():
            assert torch.equal(detail[i], alone.details[name][0]), name
        for name, flag in together.flags.items():
            assert bool(flag[i]) == bool(alone.flags[name][0]), name
        cost = cost + alone.cost
    assert (together.cost.forwards, together.cost.backwards) == (cost.forwards, cost.backwards)


def test_rivals_go_with_their_images_through_groups():
    images, against = toys.images(5), torch.tensor([[1], [0], [3], [4], [0]])
    together = attribute("ig", images, target=2, against=against, steps=3, batch_size=2).values
    for i in range(5):
        toys.assert_same(
            together[i], attribute("ig", images[i : i + 1], target=2, against=against[i], steps=3).values[0]
        )


def test_the_cost_of_a_batch_counts_every_row_and_the_prediction_as_a_check():
    found = attribute("ig", steps=4)
    assert (found.cost.forwards, found.cost.backwards) == (12, 12)
    assert found.cost.checks == 3 + 3 + 3  # the prediction, and both ends of the completeness gap
    assert found.cost.seconds > 0
    assert found.details["forwards"].tolist() == found.details["backwards"].tolist() == [4, 4, 4]


def test_progress_is_told_of_every_row():
    seen: list[int] = []
    found = attribute("smoothgrad", samples=5, batch_size=4, progress=seen.append)
    assert sum(seen) == found.cost.forwards == 15


def test_the_gap_is_the_sum_minus_what_it_should_be():
    found = attribute("ig", steps=3, target=1)
    total = found.values.sum(dim=(1, 2, 3))
    change = (NET(X) - NET(torch.zeros_like(X)))[:, 1]
    toys.assert_same(found.gap, (total - change).detach(), 1e-6)
    assert attribute("saliency").gap is None


# ------------------------------------------------------------------------------------------------- measure


def test_measuring_takes_the_top_class_or_the_given_one():
    image, maps = X[:2], X[:2]
    start = NET(image).softmax(dim=1)
    top = xplain.measure(CLASSIFIER, image, maps, "deletion", steps=2).curve
    toys.assert_same(top[:, 0], start.amax(dim=1).detach())
    for target, index in product(("owl", 3, [3, 3]), (3,)):
        curve = xplain.measure(CLASSIFIER, image, maps, "deletion", target=target, steps=2).curve
        toys.assert_same(curve[:, 0], start[:, index].detach())


def test_measuring_counts_its_rows():
    found = xplain.measure(CLASSIFIER, X, X, "deletion", steps=4, batch_size=2)
    assert (found.cost.forwards, found.cost.backwards, found.cost.checks) == (15, 0, 3)


@pytest.mark.parametrize("shape", [(2, 3, 8, 10), (3, 3, 8, 9), (1, 3, 8, 10)])
def test_maps_that_do_not_fit_the_images_are_an_input_error(shape):
    with pytest.raises(InputError, match=r"attributions \(.*\) for images \(3, 3, 8, 10\); give one map an image"):
        xplain.measure(CLASSIFIER, X, torch.zeros(shape), "deletion", steps=2)


def test_maps_of_another_number_of_channels_are_an_input_error():
    with pytest.raises(InputError, match=r"attributions \(3, 2, 8, 10\)"):
        xplain.measure(CLASSIFIER, X, torch.zeros(3, 2, 8, 10), "deletion", steps=2)


def test_maps_that_are_not_finite_are_refused_by_what_they_are():
    maps = X.clone()
    maps[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="attributions"):
        xplain.measure(CLASSIFIER, X, maps, "deletion", steps=2)
    assert "attributions" in refused(xplain.measure, CLASSIFIER, X, torch.ones(3, 1, 8, 10).long(), "deletion", steps=2)


def test_maps_of_one_channel_and_of_float32_are_taken():
    grey = X.mean(dim=1, keepdim=True)
    a = xplain.measure(CLASSIFIER, X, grey, "deletion", steps=5)
    b = xplain.measure(CLASSIFIER, X, grey.expand(-1, 3, -1, -1).float(), "deletion", steps=5)
    toys.assert_same(a.curve, b.curve)


def test_inference_mode_around_it_changes_nothing():
    plain = xplain.attribute(CLASSIFIER, X, "saliency").values
    with torch.inference_mode():
        inside = xplain.attribute(CLASSIFIER, X.clone(), "saliency").values
    assert torch.equal(plain, inside)


def test_a_metric_may_attribute_again_with_the_draws_of_its_images():
    """With the method's name, or a function; without either it says what it needs."""
    from xplain.core.registry import MetricSpec
    from xplain.core.types import Score
    from xplain.metrics.inputs import MetricInput
    from xplain.oracle import Oracle
    from xplain.pipelines.attribution import Runtime, _explainer, run_metric

    def moved(case, *, explain, rng, size: float = 0.1):
        again = explain(case.images + size, case.y)
        return Score((again - case.attributions).flatten(1).abs().sum(dim=1) + 0 * rng.keys)

    clf = toys.classifier(toys.Function(lambda x: torch.stack([x.sum((1, 2, 3)), (x**2).sum((1, 2, 3))], dim=1)))
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([1, 1])
    spec = MetricSpec(name="moved", function=moved)
    case = MetricInput(Oracle(clf), x, 2 * x, y)  # the gradient of the sum of squares
    run = Runtime()
    for method in ("saliency", lambda clf, images, target: 2 * images):
        found = run_metric(spec, spec.resolve({}), case, run, _explainer(Oracle(clf), method, x, run)).values
        assert found.tolist() == pytest.approx([2 * 0.1 * 48] * 2)
    with pytest.raises(UsageError, match="attributes again"):
        run_metric(spec, spec.resolve({}), case, run)
    noisy = _explainer(Oracle(clf), "smoothgrad:samples=3,noise=0.5", x, run)
    assert noisy(x + 0.1, y) == pytest.approx(noisy(x, y) + 2 * 0.1)  # not drawn anew
