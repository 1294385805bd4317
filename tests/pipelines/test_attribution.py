"""Tests of xplain.pipelines.attribution: targets, contrast classes, baselines, images, parameters and groups of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.core.config import Choice
from xplain.core.errors import InputError, UsageError
from xplain.data.preprocessing import Preprocessing
from xplain.pipelines.attribution import check_methods, resolve_methods, with_control

LABELS = ["cat", "dog", "fox", "owl", "eel"]
WNIDS = ["n01", "n02", "n03", "n04", "n05"]
NET = toys.small_net(1, scale=15.0)
CLASSIFIER = toys.classifier(NET, labels=LABELS, wnids=WNIDS)
X = toys.images(3)


def in_a_line(value: object) -> str:
    """Return the representation of a value on one line, as the name of a test case."""
    return " ".join(repr(value).split())


def attribute(method: str = "saliency", images: Tensor = X, **options) -> xplain.Attribution:
    return xplain.attribute(CLASSIFIER, images, method, **options)


def gradient(index: int, image: Tensor) -> Tensor:
    """Return the gradient of one logit at one image, on the network itself."""
    image = image[None].clone().requires_grad_()
    return torch.autograd.grad(NET(image)[0, index], image)[0][0]


def refused(call, *arguments, **options) -> str:
    """Return the message of the UsageError that a call raises."""
    with pytest.raises(UsageError) as error:
        call(*arguments, **options)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


def test_target_defaults_to_top_class():
    result = attribute()
    assert result.target.tolist() == NET(X).argmax(dim=1).tolist()
    for value, index, image in zip(result.values, result.target.tolist(), X, strict=True):
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
def test_target_accepts_indices_and_names(target, expected):
    result = attribute(target=target)
    assert result.target.tolist() == expected
    assert result.target.dtype == torch.int64
    for value, index, image in zip(result.values, expected, X, strict=True):
        toys.assert_same(value, gradient(index, image))


@pytest.mark.parametrize("target", [5, -1, 99, [0, 1, 5], torch.tensor([0, -2, 1])], ids=in_a_line)
def test_target_out_of_range_is_rejected(target):
    text = refused(attribute, target=target)
    assert text.startswith("class index ")
    assert " is out of range; use an index from 0 to 4" in text


def test_target_is_checked_without_class_names():
    model = toys.classifier(NET)
    for target in (7, "7"):
        assert refused(xplain.attribute, model, X, "saliency", target=target).startswith(
            "class index 7 is out of range"
        )


def test_unknown_target_suggests_similar_name():
    assert refused(attribute, target="foxx") == "unknown class 'foxx'; did you mean 'fox'?"


@pytest.mark.parametrize("target", [[0, 1], [0, 1, 2, 3], torch.tensor([0, 1])], ids=in_a_line)
def test_target_count_must_match_images(target):
    text = refused(attribute, target=target)
    assert text == f"got {len(target)} targets for 3 images; pass one target, or one target per image"


@pytest.mark.parametrize(
    "target",
    [1.5, [1.5, 0, 1], [True, False, True], torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3, 1, dtype=torch.long), []],
    ids=in_a_line,
)
def test_target_must_be_class_index(target):
    refused(attribute, target=target)


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
def test_against_subtracts_mean_of_contrasts(against, contrasts):
    result = attribute(target=2, against=against).values
    for value, indices, image in zip(result, contrasts, X, strict=True):
        expected = gradient(2, image) - torch.stack([gradient(index, image) for index in indices]).mean(dim=0)
        toys.assert_same(value, expected)


def test_against_is_linear_in_integrated_gradients():
    alone = [attribute("ig", target=index, steps=7).values for index in (2, 0, 3)]
    result = attribute("ig", target=2, against=[0, 3], steps=7)
    toys.assert_same(result.values, alone[0] - (alone[1] + alone[2]) / 2)
    black = torch.zeros_like(X)
    z = NET(X) - NET(black)
    toys.assert_same(result.expected, (z[:, 2] - (z[:, 0] + z[:, 3]) / 2).detach())


def test_runner_up_is_best_other_class():
    z = NET(X).detach()
    order = z.argsort(dim=1, descending=True)
    result = attribute(against="runner-up").values
    for value, (best, second), image in zip(result, order[:, :2].tolist(), X, strict=True):
        toys.assert_same(value, gradient(best, image) - gradient(second, image))
    last = order[:, -1]
    result = attribute(target=last, against="runner-up").values
    for value, target, best, image in zip(result, last.tolist(), order[:, 0].tolist(), X, strict=True):
        toys.assert_same(value, gradient(target, image) - gradient(best, image))


@pytest.mark.parametrize("against", [2, [0, 2], "fox", torch.tensor([[0], [1], [2]])], ids=in_a_line)
def test_against_target_itself_is_rejected(against):
    assert refused(attribute, target=2, against=against).startswith("the target class is also a contrast class; ")


@pytest.mark.parametrize("method", ["agi", "saliency"])
def test_against_top_class_is_rejected(method):
    top = int(NET(X)[1].argmax())
    assert "also a contrast class" in refused(attribute, method, against=top)


@pytest.mark.parametrize("against", [5, -1, [0, 7]], ids=in_a_line)
def test_against_out_of_range_is_rejected(against):
    assert " is out of range; use an index from 0 to 4" in refused(attribute, target=2, against=against)


def test_against_repeated_class_is_rejected():
    assert (
        refused(attribute, target=2, against=[0, 0]) == "the contrast classes contain a duplicate; pass each class once"
    )
    assert "duplicate" in refused(attribute, target=2, against=["cat", 0])


@pytest.mark.parametrize(
    "against", [[], [0.5], torch.zeros(2, 1, dtype=torch.long), torch.zeros(3, 0).long()], ids=in_a_line
)
def test_against_must_be_class_indices(against):
    refused(attribute, target=2, against=against)


def test_runner_up_needs_two_classes():
    model = toys.classifier(toys.small_net(classes=1))
    assert "no runner-up" in refused(xplain.attribute, model, X, "saliency", against="runner-up")


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_agi_uses_contrasts_as_false_classes(variant):
    options = {"target": 2, "variant": variant, "steps": 3}
    result = attribute("agi", against=[4, 0], **options)
    assert result.details["classes"].tolist() == [[4, 0]] * 3
    alone = [attribute("agi", against=index, **options).values for index in (4, 0)]
    assert alone[1].abs().max() > 0
    toys.assert_same(result.values, alone[0] + alone[1])
    first = attribute("agi", target=2, against=[4], variant=variant, steps=1, score="logit").values
    for value, image in zip(first, X, strict=True):  # one step by hand, of the plain target's gradient
        move = (image + 0.05 * gradient(4, image).sign()).clamp(0, 1) - image
        already = NET(image[None]).argmax() == 4
        toys.assert_same(value, torch.zeros_like(image) if already else -gradient(2, image) * move)


def test_agi_takes_contrasts_per_image():
    against = torch.tensor([[0, 1], [4, 3], [1, 4]])
    result = attribute("agi", target=2, against=against, steps=2)
    assert torch.equal(result.details["classes"], against)
    for i in range(3):
        alone = xplain.attribute(CLASSIFIER, X[i : i + 1], "agi", target=2, against=against[i], steps=2)
        toys.assert_same(result.values[i], alone.values[0])


LINEAR_WEIGHT = torch.linspace(-1, 1, 2 * 3 * 8 * 10, dtype=torch.float64).reshape(2, 3, 8, 10)
LINEAR = toys.classifier(toys.Linear(LINEAR_WEIGHT), preprocessing=Preprocessing((8, 10), 8))


def expected_gradients(images: Tensor, baselines: object, **options) -> Tensor:
    return xplain.attribute(LINEAR, images, "expected-gradients", target=1, baselines=baselines, **options).values


def test_baselines_tensor_replaces_noise():
    other = toys.images(1, seed=5)
    result = expected_gradients(X, other, samples=4)
    toys.assert_same(result, LINEAR_WEIGHT[1] * (X - other))


def test_baselines_exclude_explained_image():
    other = toys.images(1, seed=5)
    for baselines in (torch.cat([X[:1], other]), torch.cat([other, X[:1], X[:1]])):
        result = expected_gradients(X[:1], baselines, samples=20)
        toys.assert_same(result, LINEAR_WEIGHT[1] * (X[:1] - other))


def test_baselines_are_all_drawn():
    baselines = torch.stack([torch.full((3, 8, 10), level, dtype=torch.float64) for level in (0.0, 0.5, 1.0)])
    result = expected_gradients(X[:1], baselines, samples=300)
    level = (X[:1] - result / LINEAR_WEIGHT[1]).flatten()
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


def test_baselines_directory_excludes_explained_image(tmp_path):
    paths = write_images(tmp_path / "refs", 2)
    for own, other in (paths, paths[::-1]):
        result = expected_gradients(read(own), str(tmp_path / "refs"), samples=10)
        toys.assert_same(result, LINEAR_WEIGHT[1] * (read(own) - read(other)))


def test_baselines_directory_is_read_again(tmp_path):
    (path,) = write_images(tmp_path / "refs", 1)
    before = expected_gradients(X[:1], str(tmp_path / "refs"), samples=2)
    Image.new("RGB", (10, 8), "white").save(path)
    result = expected_gradients(X[:1], str(tmp_path / "refs"), samples=2)
    assert (before - result).abs().max() > 0.1
    toys.assert_same(result, LINEAR_WEIGHT[1] * (X[:1] - 1))


def test_baselines_need_another_image(tmp_path):
    with pytest.raises(InputError, match="the explained image is the only baseline"):
        expected_gradients(X[:1], X[:1])
    (path,) = write_images(tmp_path / "refs", 1)
    with pytest.raises(InputError, match="the explained image is the only baseline"):
        expected_gradients(read(path), str(tmp_path / "refs"))


@pytest.mark.parametrize("shape", [(3, 8, 10), (2, 3, 8, 9), (2, 1, 8, 10)])
def test_baselines_must_have_image_shape(shape):
    with pytest.raises(
        InputError,
        match=r"baselines of shape \(.*\) do not match images of shape \(\d, 3, 8, 10\); pass baselines of shape \(N, C, H, W\)",
    ):
        expected_gradients(X, torch.zeros(shape, dtype=torch.float64))


def test_baselines_directory_must_exist(tmp_path):
    with pytest.raises(InputError, match="baseline directory 'nowhere' not found"):
        expected_gradients(X, "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images found in the directory"):
        expected_gradients(X, str(tmp_path / "empty"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_images_must_be_floating_point(dtype):
    text = refused(attribute, images=torch.ones(2, 3, 8, 10, dtype=dtype))
    name = str(dtype).removeprefix("torch.")
    assert text == (
        f"images must be a floating-point tensor of shape (B, C, H, W), got {name} of shape (2, 3, 8, 10); "
        "divide 8-bit pixels by 255 and add a batch dimension"
    )


@pytest.mark.parametrize("shape", [(3, 8, 10), (8, 10), (1, 1, 3, 8, 10)])
def test_images_need_batch_dimension(shape):
    assert "must be a floating-point tensor of shape (B, C, H, W)" in refused(attribute, images=torch.zeros(shape))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_images_must_be_finite(bad):
    images = X.clone()
    images[1, 2, 3, 4] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        attribute(images=images)


def test_images_must_not_be_empty():
    with pytest.raises(xplain.XplainError):
        attribute(images=X[:0])


def test_images_are_converted_to_model_type():
    assert attribute(images=X.float()).values.dtype == torch.float64


def test_unknown_method_suggests_similar_name():
    assert refused(attribute, "agii") == "unknown method 'agii'; did you mean 'agi'?"
    assert refused(attribute, "zzz") == "unknown method 'zzz'; see xplain list methods"


def test_unknown_parameter_suggests_known_ones():
    assert (
        refused(attribute, "ig", step=3)
        == "integrated-gradients has no parameter 'step'; did you mean 'steps' or 'max_steps'?"
    )
    text = refused(attribute, "ig", zzz=3)
    assert (
        text
        == "integrated-gradients has no parameter 'zzz'; use baseline or steps or rule or direction or tolerance or max_steps"
    )
    assert refused(attribute, "sobel", steps=3) == "sobel has no parameter 'steps'; remove it"


def test_parameter_out_of_range_is_rejected():
    assert (
        refused(attribute, "ig", steps=0) == "integrated-gradients: invalid value steps=0; use an integer >= 1 or auto"
    )
    text = refused(attribute, "ig", rule="simpson")
    assert text.startswith("integrated-gradients: invalid value rule=simpson; ")


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "many"])
def test_batch_size_must_be_positive(batch_size):
    assert refused(attribute, batch_size=batch_size).startswith(f"invalid batch size '{batch_size}'")


def test_parameters_accept_text():
    assert torch.equal(attribute("ig", steps="3").values, attribute("ig", steps=3).values)
    assert torch.equal(attribute("ig", batch_size="2").values, attribute("ig", batch_size=2).values)


def test_alias_names_the_method():
    assert torch.equal(attribute("ig", steps=3).values, attribute("integrated-gradients", steps=3).values)


@pytest.mark.parametrize("score", ["logit", "prob", "log-prob", "margin"])
def test_score_is_differentiated(score):
    scalar = {
        "logit": lambda z: z[2],
        "prob": lambda z: z.softmax(0)[2],
        "log-prob": lambda z: z.log_softmax(0)[2],
        "margin": lambda z: z[2] - max(z[i] for i in (0, 1, 3, 4)),
    }[score]
    for value, image in zip(attribute(target=2, score=score).values, X, strict=True):
        image = image[None].clone().requires_grad_()
        toys.assert_same(value, torch.autograd.grad(scalar(NET(image)[0]), image)[0][0])


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
def test_batch_equals_single_images(method, batch_size):
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


def test_contrasts_follow_images_into_groups():
    images, against = toys.images(5), torch.tensor([[1], [0], [3], [4], [0]])
    together = attribute("ig", images, target=2, against=against, steps=3, batch_size=2).values
    for i in range(5):
        toys.assert_same(
            together[i], attribute("ig", images[i : i + 1], target=2, against=against[i], steps=3).values[0]
        )


def test_cost_counts_rows_and_checks():
    result = attribute("ig", steps=4)
    assert (result.cost.forwards, result.cost.backwards) == (12, 12)
    assert result.cost.checks == 3 + 3 + 3  # the prediction, and both ends of the completeness gap
    assert result.cost.seconds > 0
    assert result.details["forwards"].tolist() == result.details["backwards"].tolist() == [4, 4, 4]


def test_progress_receives_every_row():
    seen: list[int] = []
    result = attribute("smoothgrad", samples=5, batch_size=4, progress=seen.append)
    assert sum(seen) == result.cost.forwards == 15


def test_gap_is_sum_minus_expected():
    result = attribute("ig", steps=3, target=1)
    total = result.values.sum(dim=(1, 2, 3))
    change = (NET(X) - NET(torch.zeros_like(X)))[:, 1]
    toys.assert_same(result.gap, (total - change).detach(), 1e-6)
    assert attribute("saliency").gap is None


def test_attribute_works_in_inference_mode():
    plain = xplain.attribute(CLASSIFIER, X, "saliency").values
    with torch.inference_mode():
        inside = xplain.attribute(CLASSIFIER, X.clone(), "saliency").values
    assert torch.equal(plain, inside)


def test_unknown_keyword_value_is_rejected():
    assert refused(attribute, score="logits") == "unknown score 'logits'; did you mean 'logit'?"
    assert refused(attribute, precision="fp8") == "unknown precision 'fp8'; choose from fp32, tf32, bf16"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["ig:steps=0"], "integrated-gradients: invalid value steps=0"),
        (
            ["ig:steps=2", "integrated-gradients:steps=2"],
            "method 'integrated-gradients:steps=2' is specified more than once",
        ),
    ],
)
def test_check_methods_rejects_invalid_choices(texts, message):
    assert refused(check_methods, [Choice.parse(text) for text in texts]).startswith(message)


def test_check_methods_needs_layer_support():
    check_methods([Choice("saliency"), Choice("grad-cam")], layer="act2")
    text = refused(check_methods, [Choice("saliency"), Choice("agi")], layer="act2")
    assert text.startswith("--layer act2 is not supported by saliency, agi; ")


def test_resolve_methods_sets_common_layer():
    choices = [Choice.parse(text) for text in ("sm", "grad-cam", "grad-cam:layer=act1")]
    runs = resolve_methods(choices, None, CLASSIFIER, layer="act2")
    assert [run.settings.get("layer") for run in runs] == [None, "act2", "act1"]
    assert [run.label for run in runs] == ["saliency", "grad-cam", "grad-cam:layer=act1"]


def test_resolve_methods_sets_common_layout():
    choices = [Choice.parse(text) for text in ("sm", "grad-cam", "rollout", "grad-cam:layout=channels-last")]
    runs = resolve_methods(choices, None, CLASSIFIER, layout="6x8+1")
    assert [run.settings.get("layout") for run in runs] == [None, "6x8+1", "6x8+1", "channels-last"]
    assert [run.describe()["params"].get("layout") for run in runs] == [None, "6x8+1", "6x8+1", "channels-last"]
    (plain,) = resolve_methods([Choice("grad-cam")], None, CLASSIFIER)
    assert plain.describe()["params"] == {"layer": "auto"}  # as recorded by versions without layouts


def test_added_parameters_are_recorded_if_changed():
    plain, idgi = resolve_methods([Choice.parse("ig"), Choice.parse("ig:direction=idgi")], None, CLASSIFIER)
    recorded = {"baseline": "black", "steps": 50, "rule": "gauss-legendre"}  # by versions without direction
    assert plain.describe()["params"] == recorded
    assert idgi.describe()["params"] == recorded | {"direction": "idgi"}


def test_check_methods_needs_layout_support():
    check_methods([Choice("saliency"), Choice("rollout")], layout="6x8")
    text = refused(check_methods, [Choice("saliency"), Choice("agi")], layout="6x8")
    assert text == "--layout 6x8 is not supported by saliency, agi; remove it or add a layer-based method"
    text = refused(check_methods, [Choice("grad-cam")], layout="6by8")
    assert "6by8" in text
    assert "auto, HxW or HxW+PREFIX such as 14x14+1, channels-first or channels-last" in text


def test_resolve_methods_sets_common_score():
    choices = [Choice("saliency"), Choice("agi")]
    assert [run.score for run in resolve_methods(choices, "margin", CLASSIFIER)] == ["margin", "margin"]
    own = [run.spec.score for run in resolve_methods(choices, None, CLASSIFIER)]
    assert [run.score for run in resolve_methods(choices, None, CLASSIFIER)] == own


def test_with_control_appends_random_once():
    choices = (Choice("saliency"),)
    assert with_control(choices) == (*choices, Choice("random"))
    assert with_control(with_control(choices)) == with_control(choices)
