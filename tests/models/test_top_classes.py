"""Short representations, top classes and names of layers."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import xplain
from tests.conftest import SAMPLES, TINY
from tests.helpers import small_models, toys
from xplain.core.errors import UsageError
from xplain.models.layer_names import find_layer_name


@pytest.fixture(scope="module")
def classifier():
    return xplain.load_classifier(TINY[1], device="cpu")


def test_representations_are_short(classifier):
    assert repr(classifier) == f"Classifier({TINY[1]!r}, 5 classes, softmax, input 3 x 32 x 32, on cpu)"
    x = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    attribution = xplain.attribute(classifier, x, "ig", steps=2, target=1)
    text = repr(attribution)
    assert text.startswith(
        "Attribution(values (9, 3, 32, 32), target [1, 1, 1, 1, 1, 1, 1, 1, ... 9 in all], largest gap 0.0"
    )
    assert ", cost 18 forward and 18 backward rows in " in text
    assert len(text) < 200
    score = xplain.measure(classifier, x[:2], attribution.values[:2], "deletion", target=1, steps=2)
    values = [round(value, 4) for value in score.values.tolist()]
    assert repr(score) == f"Score(values {values}, curve (2, 3))"
    constant = xplain.measure(classifier, x[:2], torch.zeros(2, 1, 32, 32), "sparseness")
    assert repr(constant).startswith("Score(values [nan, nan], 2 undefined: ")


def test_top_classes_of_images(classifier):
    pixels = xplain.read_image(SAMPLES / "cat.jpg", preprocessing=classifier.preprocessing)
    probabilities = classifier(pixels[None])[0].detach().double().softmax(dim=0)
    order = probabilities.argsort(descending=True).tolist()
    for image in (SAMPLES / "cat.jpg", pixels, pixels.numpy(), Image.open(SAMPLES / "cat.jpg")):
        top = classifier.top_classes(image, 3)
        assert [entry.index for entry in top] == order[:3]
        assert top[0].probability == pytest.approx(float(probabilities[order[0]]), abs=1e-9)
    assert repr(top).splitlines()[0].split() == [str(order[0]), top[0].name, f"{top[0].probability:.4g}"]
    assert top._repr_html_().startswith("<table><tr><th>index</th><th>class</th><th>probability</th></tr><tr><td>")
    assert len(classifier.top_classes(pixels)) == 5
    assert top[1:][0] == top[1]


def test_top_classes_of_other_outputs():
    x = np.random.default_rng(0).random((3, 64, 64), dtype=np.float32)
    labels = xplain.load_classifier(small_models.multi_label(), device="cpu", size=64)
    top = labels.top_classes(x, 2)
    logits = labels(torch.from_numpy(x)[None])[0].detach().double()
    assert top[0].probability == pytest.approx(float(logits.sigmoid().max()), abs=1e-9)
    assert top[0].text == f"class {int(logits.argmax())}"
    values = xplain.load_classifier(small_models.multi_label(), device="cpu", size=64, activation="none")
    (best,) = values.top_classes(x, 1)
    assert (best.probability, best.is_value) == (pytest.approx(float(logits.max()), abs=1e-9), True)
    assert "<th>value</th>" in values.top_classes(x)._repr_html_()


def test_layers_are_named_by_modules():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    wrapped = nn.DataParallel(network)
    classifier = xplain.load_classifier(network, device="cpu", size=16)
    x = torch.rand(2, 3, 16, 16)
    for layer in (network[1], classifier.model[1], "1"):
        assert find_layer_name(classifier, layer) == "1"
        assert xplain.attribute(classifier, x, "grad-cam", layer=layer).facts["layer"] == "1"
    by_name = xplain.attribute(classifier, x, "grad-cam", layer="1+2").values
    assert torch.equal(xplain.attribute(classifier, x, "grad-cam", layer=[network[1], "2"]).values, by_name)
    other = xplain.load_classifier(wrapped, device="cpu", size=16)
    assert find_layer_name(other, network[2]) == "2"
    score = xplain.attribute(classifier, x, "grad-cam", layer=network[1], target=lambda output: output[:, 1])
    toys.assert_same(score.values, xplain.attribute(classifier, x, "grad-cam", layer="1", target=1).values, rtol=1e-5)
    with pytest.raises(UsageError, match=r"the layer ReLU is not a part of Sequential; pass a module inside the model"):
        xplain.attribute(classifier, x, "grad-cam", layer=nn.ReLU())
    with pytest.raises(UsageError, match=r"the layer is of type int; pass its name or the module, or a list of them"):
        xplain.attribute(classifier, x, "grad-cam", layer=3)
    with pytest.raises(UsageError, match=r"the layer Sequential is not a part of Sequential"):
        xplain.attribute(classifier, x, "grad-cam", layer=network)
