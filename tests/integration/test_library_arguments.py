"""Wrong arguments of the public functions: each is refused in one line that says what to do; NumPy arrays are accepted."""

from __future__ import annotations

import collections
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError

X = toys.images(2)
MAPS = torch.ones(2, 1, 8, 10, dtype=torch.float64)
NET = toys.small_net(1)
CLASSIFIER = toys.classifier(NET, labels=["cat", "dog", "fox", "owl", "eel"])
SIZE = tuple(X.shape[2:])

# Values of 25 kinds that none of the tested arguments accepts, with few exceptions.
VALUES = {
    "None": None,
    "bool": True,
    "number": 10**30,
    "negative number": -1,
    "fraction": 0.5,
    "NaN": float("nan"),
    "complex": 1j,
    "empty text": "",
    "text": "nonsense",
    "text with a null": "a\0b",
    "bytes": b"a.png",
    "missing path": Path("nowhere", "a.png"),
    "Pillow image": Image.new("RGB", (10, 8)),
    "8-bit array": np.zeros((8, 10, 3), np.uint8),
    "text array": np.array(["a", "b"]),
    "object array": np.array([None, {}]),
    "tensor of other shape": torch.rand(3),
    "complex tensor": torch.zeros(2, 3, 8, 10, dtype=torch.complex64),
    "sparse tensor": X.to_sparse(),
    "meta tensor": X.to("meta"),
    "list": [None, [1, "a"]],
    "tuple of tensors": (torch.rand(3), torch.rand(2)),
    "dictionary": {"state_dict": {}},
    "set": {1.5, "a"},
    "object": object(),
    "class": nn.Linear,
    "function": lambda *arguments: None,
    "module": nn.Linear(2, 2),
    "generator": (number for number in ()),
}

ATTRIBUTE = {"classifier": CLASSIFIER, "images": X, "method": "saliency"}
MEASURE = {"classifier": CLASSIFIER, "images": X, "attributions": MAPS, "metric": "deletion", "steps": 2}
CALLS = {
    "load_classifier": (xplain.load_classifier, {"name": NET, "device": "cpu"}),
    "read_image": (xplain.read_image, {"path": "a.png"}),
    "attribute": (xplain.attribute, ATTRIBUTE),
    "measure": (xplain.measure, MEASURE),
}
# (function, argument) -> values that are accepted
ARGUMENTS = {
    ("load_classifier", "name"): {"module"},
    ("load_classifier", "device"): set(),
    ("load_classifier", "weights"): {"None"},
    ("load_classifier", "classes"): {"None"},
    ("load_classifier", "image_size"): {"None"},
    ("load_classifier", "size"): {"None"},
    ("load_classifier", "mean"): {"None", "negative number", "fraction", "tensor of other shape"},
    ("load_classifier", "std"): {"None", "fraction", "tensor of other shape"},
    ("read_image", "path"): set(),
    ("read_image", "size"): set(),
    ("read_image", "preprocessing"): {"None"},
    ("attribute", "classifier"): set(),
    ("attribute", "images"): set(),
    ("attribute", "method"): set(),
    ("attribute", "target"): {"None"},
    ("attribute", "against"): {"None"},
    ("attribute", "score"): {"None"},
    ("attribute", "seed"): {"number", "negative number"},
    ("attribute", "precision"): set(),
    ("attribute", "batch_size"): {"number"},
    ("attribute", "progress"): {"None", "class", "function", "module"},
    ("attribute", "nonsense"): set(),
    ("measure", "classifier"): set(),
    ("measure", "images"): set(),
    ("measure", "attributions"): set(),
    ("measure", "metric"): set(),
    ("measure", "target"): {"None"},
    ("measure", "method"): {"None", "class", "function", "module"},
    ("measure", "steps"): {"None"},
    ("measure", "boxes"): set(),
}


def refusal(call, **arguments) -> str:
    """Return the message of the XplainError that a call raises: one line, with a hint."""
    with pytest.raises(xplain.XplainError) as error:
        call(**arguments)
    text = str(error.value)
    assert "\n" not in text
    message, _, hint = text.partition("; ")
    assert message
    assert hint
    return text


@pytest.mark.parametrize(("function", "argument"), ARGUMENTS)
def test_wrong_argument_is_refused(tmp_path, monkeypatch, function, argument):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (10, 8)).save("a.png")
    call, arguments = CALLS[function]
    refused = VALUES.keys() - ARGUMENTS[function, argument]
    assert len(refused) >= 25
    for kind in refused:
        try:
            refusal(call, **{**arguments, argument: VALUES[kind]})
        except BaseException as error:
            error.add_note(f"{argument} = {kind}")
            raise


@pytest.mark.parametrize(
    ("method", "parameter"), [("ig", "steps"), ("ig", "baseline"), ("ig", "rule"), ("grad-cam", "layer")]
)
def test_wrong_parameter_is_refused(method, parameter):
    for kind in sorted(VALUES.keys() - {"None", "bool", "number"}):
        refusal(xplain.attribute, **{**ATTRIBUTE, "method": method, parameter: VALUES[kind]})


@pytest.mark.parametrize("kind", sorted(VALUES.keys() - {"missing path"}))
def test_wrong_baselines_are_refused(kind):
    refusal(xplain.attribute, **{**ATTRIBUTE, "method": "expected-gradients", "baselines": VALUES[kind]})


def test_raw_module_is_loaded_for_the_size_of_the_images():
    loaded = xplain.load_classifier(NET, device="cpu", size=SIZE)
    for call, arguments in (CALLS["attribute"], CALLS["measure"]):
        expected = call(**{**arguments, "classifier": loaded})
        assert torch.equal(call(**{**arguments, "classifier": NET}).values, expected.values)


def test_wrapped_classifier_is_refused():
    for call, arguments in (CALLS["attribute"], CALLS["measure"]):
        text = refusal(call, **{**arguments, "classifier": nn.DataParallel(CLASSIFIER)})
        assert text.startswith("the classifier is wrapped in DataParallel; ")
        assert refusal(call, **{**arguments, "classifier": "resnet5"}).startswith(
            "unknown model 'resnet5'; did you mean"
        )


@pytest.mark.parametrize(
    ("call", "keyword", "message"),
    [
        (xplain.explain, "methods", "explain has no argument 'methods'; did you mean 'method'?"),
        (xplain.explain, "batchsize", "explain has no argument 'batchsize'; did you mean 'batch_size'?"),
        (xplain.explain, "step", "integrated-gradients has no parameter 'step'; did you mean 'steps'"),
        (xplain.attribute, "targets", "attribute has no argument 'targets'; did you mean 'target'?"),
        (
            xplain.explain,
            "size",
            "explain has no argument 'size'; pass it to xplain.load_classifier(model, size=...), and the classifier to explain",
        ),
        (xplain.evaluate, "metric", "evaluate has no argument 'metric'; did you mean 'metrics'?"),
        (xplain.evaluate, "zzz", "evaluate has no argument 'zzz'; use model, data, methods, metrics, target"),
    ],
)
def test_misspelled_keyword_names_the_right_one(call, keyword, message):
    with pytest.raises(UsageError) as error:
        call(CLASSIFIER, X, "ig", **{keyword: "deletion"})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", ["target_layer", "target_layers"])
def test_layers_of_other_packages_are_named(name):
    message = f"explain has no argument {name!r}; use layer"
    assert refusal(xplain.explain, model=CLASSIFIER, images=X, method="grad-cam", **{name: [NET]}) == message
    text = refusal(xplain.explain, model=CLASSIFIER, images=X, method="saliency", **{name: [NET]})
    assert text == f"{message} with a method of a layer: grad-cam"


def test_misspelled_keyword_of_measure_names_the_right_one():
    assert (
        refusal(xplain.measure, **MEASURE, methods="ig") == "measure has no argument 'methods'; did you mean 'method'?"
    )


def test_classifier_is_not_loaded_again():
    """Its mean and std would be applied twice."""
    for wrapped in (CLASSIFIER, nn.DataParallel(CLASSIFIER)):
        assert "is a classifier already" in refusal(xplain.load_classifier, name=wrapped)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_numpy_images_and_maps_equal_tensors(dtype):
    images = X.numpy().astype(dtype)
    same = torch.tensor(images.astype("f8"))
    expected = xplain.attribute(CLASSIFIER, same, "saliency")
    assert torch.equal(xplain.attribute(CLASSIFIER, images, "saliency").values, expected.values)
    flipped = images[::-1, :, ::-1]  # negative strides
    assert xplain.attribute(CLASSIFIER, flipped, "saliency").values.shape == X.shape
    maps = expected.values.numpy()
    scores = [
        xplain.measure(CLASSIFIER, *pair, "deletion", steps=2) for pair in ((same, expected.values), (images, maps))
    ]
    assert torch.equal(scores[0].values, scores[1].values)


@pytest.mark.parametrize(
    ("images", "hint"),
    [
        (
            np.zeros((8, 10, 3), np.uint8),
            r"move the channels first by images\.permute\(2, 0, 1\), divide .* by 255 and add",
        ),
        (torch.rand(2, 8, 10, 3), r"move the channels first by images\.permute\(0, 3, 1, 2\)"),
        (torch.rand(2, 1, 8, 10), r"repeat the gray channel by images\.expand\(-1, 3, -1, -1\)"),
        (torch.rand(2, 4, 8, 10), r"remove transparency by images\[:, :3\]"),
        (torch.rand(2, 5, 8, 10), "pass images with red, green and blue"),
        ([X[0], X[1]], r"use torch\.stack"),
        ("cat.jpg", r"use xplain\.read_image\(path, preprocessing=classifier\.preprocessing\)\[None\]"),
        (Image.new("RGB", (10, 8)), r"use xplain\.read_image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hint_says_how_to_convert_images(images, hint):
    for call, arguments in (CALLS["attribute"], CALLS["measure"]):
        assert re.search(f"; {hint}", refusal(call, **{**arguments, "images": images}))


@pytest.mark.parametrize(
    ("images", "values"),
    [
        ((X - 0.5) / 0.25, r"-\S+ to \S+"),
        (X * 255, r"\S+ to 2\d\d\S*"),
        (X.clone().index_fill_(3, torch.tensor([4]), -0.01), r"-0\.01 to \S+"),
        (X.float() / X.max() + 0.01, r"\S+ to 1\.01"),
        (torch.ones_like(X) + 1e-4, r"1\.0001 to 1\.0001"),
        (2 * X.numpy() - 1, r"-\S+ to \S+"),
    ],
    ids=["normalized", "8-bit", "one column below", "slightly above", "above by little", "from -1 to 1"],
)
def test_images_outside_unit_range_are_refused(images, values):
    for call, arguments in (CALLS["attribute"], CALLS["measure"]):
        with pytest.raises(InputError, match=rf"the images have values from {values}, not in \[0, 1\]; pass pixels in"):
            call(**{**arguments, "images": images})
    with pytest.raises(InputError, match="the baselines have values"):
        xplain.attribute(CLASSIFIER, X, "expected-gradients", baselines=images)


def test_rounding_noise_is_accepted():
    images = X.clone()
    images[0, 0, 0, 0], images[1, 2, 3, 4] = -1e-6, 1 + 1e-6
    result = xplain.attribute(CLASSIFIER, images, "saliency")
    assert not any("[0, 1]" in name for name in result.flags)
    xplain.measure(CLASSIFIER, images.float(), MAPS, "deletion", steps=2)


def test_model_that_refuses_the_size_is_reported():
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    classifier = xplain.load_classifier(fixed, device="cpu")
    for call, arguments in (CALLS["attribute"], CALLS["measure"]):
        text = refusal(call, **{**arguments, "classifier": classifier})
        assert text.startswith("the model failed on images (2, 3, 8, 10): RuntimeError: ")
    with pytest.raises(
        InputError, match="the forward pass of Bilinear takes input1 and input2; wrap the model in a module"
    ):
        xplain.load_classifier(nn.Bilinear(2, 2, 2), device="cpu")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("labels", "cat"),
        ("labels", 5),
        ("labels", {0: "cat", 1: "dog"}),
        ("labels", [0, 1]),
        ("wnids", [None]),
        ("size", "8"),
        ("size", (3, 8, 10)),
        ("size", -8),
        ("size", 8.5),
        ("mean", "imagenet"),
        ("std", [0.2, None, 0.2]),
        ("std", [0.2, 0.2]),
    ],
)
def test_wrong_attribute_of_module_is_refused(attribute, value):
    module = toys.small_net(1)
    setattr(module, attribute, value)
    assert f"the model's {attribute!r}" in refusal(xplain.load_classifier, name=module, device="cpu")


def test_attributes_that_are_methods_or_arrays():
    module = toys.small_net(1)
    module.size, module.labels = np.array(SIZE), np.array(["a", "b", "c", "d", "e"])
    module.wnids = module.mean = None
    module.std = lambda: 1
    classifier = xplain.load_classifier(module, device="cpu")
    assert (classifier.size, classifier.labels[4], classifier.wnids) == (SIZE, "e", [])


def test_module_without_weights_is_refused():
    with torch.device("meta"):
        module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert "is on the meta device" in refusal(xplain.load_classifier, name=module, device="cpu")


def test_method_function_must_return_maps():
    arguments = {**MEASURE, "metric": "max-sensitivity", "samples": 2}
    del arguments["steps"]
    for wrong in (None, 1.0, [MAPS], MAPS[:1], MAPS[:, :, :4], MAPS[0], MAPS.long()):
        refusal(xplain.measure, **arguments, method=lambda classifier, images, target, wrong=wrong: wrong)
    right = xplain.measure(**arguments, method=lambda classifier, images, target: images.mean(dim=1, keepdim=True))
    array = xplain.measure(
        **arguments, method=lambda classifier, images, target: images.mean(dim=1, keepdim=True).numpy()
    )
    assert torch.equal(right.values, array.values)


def test_method_function_may_call_attribute_on_perturbed_images():
    """The metric moves pixels out of [0, 1]; outside of the function such images are refused."""

    def saliency(classifier, images, target):
        return xplain.attribute(classifier, images, "saliency", target=target).values

    images = X.round()
    maps = xplain.attribute(CLASSIFIER, images, "saliency").values
    scores = [xplain.measure(CLASSIFIER, images, maps, "max-sensitivity", method=m) for m in (saliency, "saliency")]
    torch.testing.assert_close(scores[0].values, scores[1].values)
    with pytest.raises(xplain.XplainError, match="not in"):
        xplain.attribute(CLASSIFIER, images * 1.02, "saliency")


@pytest.mark.parametrize(
    "classes", [[], (), np.array([]), torch.empty(0, dtype=torch.long)], ids=["list", "tuple", "array", "tensor"]
)
def test_no_class_is_usage_error(classes):
    assert "no class is given" in refusal(xplain.attribute, **{**ATTRIBUTE, "target": 0, "against": classes})
    assert "no class is given" in refusal(xplain.attribute, **{**ATTRIBUTE, "target": classes})


def test_boxes_may_be_an_array():
    boxes = np.array([[[0.0, 0.0, 4.0, 4.0]]] * 2)
    maps = xplain.attribute(CLASSIFIER, X, "saliency").values
    scores = [xplain.measure(CLASSIFIER, X, maps, "pointing-game", boxes=b) for b in (boxes, torch.tensor(boxes))]
    assert torch.equal(scores[0].values, scores[1].values)


def test_attribution_in_place_of_its_values():
    result = xplain.attribute(CLASSIFIER, X, "saliency")
    assert "attribution.values" in refusal(xplain.measure, **{**MEASURE, "attributions": result})
    assert refusal(xplain.measure, **{**MEASURE, "attributions": collections.UserList()})


def test_read_image_of_wrong_size_is_usage_error(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (10, 8)).save(path)
    for size in (0, (8,), (8, 8, 3), (8, 0), "88", [8, None], 2**40):
        with pytest.raises(UsageError, match="size"):
            xplain.read_image(path, size)
    assert "pass classifier.preprocessing" in refusal(xplain.read_image, path=path, preprocessing=CLASSIFIER)
    assert xplain.read_image(path, np.int64(4)).shape == (3, 4, 4)
