"""CAM methods on several layers: the mean of the maps of each, from one forward and one backward pass."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import nn

import xplain
from tests.helpers import toys
from tests.helpers.on_models import count_rows, possible_forwards
from tests.reference import grad_cam as reference
from xplain.core.config import Choice, ExplainConfig
from xplain.core.errors import UsageError
from xplain.core.options import ComputeOptions, ModelOptions
from xplain.core.registry import METHODS
from xplain.core.run_store import fingerprint
from xplain.data.preprocessing import Preprocessing
from xplain.pipelines.attribution import resolve_methods
from xplain.pipelines.file_names import describe_settings

NET = toys.small_net(1, scale=15.0)
CLASSIFIER, _ = toys.with_pixels(NET)
X = toys.images(3)
TARGETS = [2, 0, 3]
LAYERS = ("act1", "pool", "act2")
CAMS = [spec.name for spec in METHODS if "layer" in spec.parameters]


def explain(method: str, layer: object, **options) -> xplain.Attribution:
    return xplain.attribute(CLASSIFIER, X, method, target=TARGETS, layer=layer, **options)


@lru_cache
def of_one_layer(method: str, layer: str) -> torch.Tensor:
    return explain(method, layer).values


def test_all_cam_methods_take_layers():
    assert {"grad-cam", "grad-cam-plus-plus", "layer-cam", "hires-cam", "xgrad-cam"} < set(CAMS)
    assert {"score-cam", "ablation-cam", "eigen-cam", "guided-grad-cam"} < set(CAMS)


@pytest.mark.parametrize("method", CAMS)
def test_map_of_several_layers_is_the_mean(method):
    result = explain(method, "+".join(LAYERS))
    toys.assert_same(result.values, sum(of_one_layer(method, layer) for layer in LAYERS) / 3)
    assert float(result.values.abs().max()) > 0
    assert result.facts == {"layer": "act1+pool+act2"}


@pytest.mark.parametrize("method", [name for name in CAMS if name != "guided-grad-cam"])
def test_scaled_maps_have_the_range_of_their_layer(method):
    """Both layers have the size of the images. A single layer keeps the units of the score."""
    maps = [of_one_layer(method, layer) for layer in ("act1", "norm1")]
    values = explain(method, ["act1", "norm1"], scale_layers=True).values
    toys.assert_same(values, (to_unit(maps[0]) + to_unit(maps[1])) / 2, rtol=1e-6)
    assert float(values.max()) > 0.5
    assert torch.equal(explain(method, "act1", scale_layers=True).values, maps[0])


def to_unit(maps: torch.Tensor) -> torch.Tensor:
    """Return each map scaled to [0, 1], a constant one to 0."""
    low, high = (extreme(dim=(1, 2, 3), keepdim=True) for extreme in (maps.amin, maps.amax))
    return (maps - low) / torch.where(high > low, high - low, 1)


@pytest.mark.parametrize("scaled", [False, True])
def test_grad_cam_equals_reference(scaled):
    values = explain("grad-cam", ("act1", "act2"), scale_layers=scaled).values
    for value, image, target in zip(values, X, TARGETS, strict=True):
        total = torch.zeros(8, 10, dtype=torch.float64)
        for module in (NET.act1, NET.act2):
            coarse = reference.grad_cam(NET, module, toys.normalise(image), target)
            if scaled and float(coarse.max()) > float(coarse.min()):
                coarse = (coarse - coarse.min()) / (coarse.max() - coarse.min())
            total += reference.upsample(coarse, 8, 10) / 2
        toys.assert_same(value[0], total)


def test_scaled_layers_agree_with_pytorch_grad_cam():
    """It scales the mean to [0, 1] once more."""
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    values = explain("grad-cam", "act1+act2", scale_layers=True).values[:, 0]
    with pytorch_grad_cam.GradCAM(NET, [NET.act1, NET.act2]) as cam:
        maps = cam(toys.normalise(X), [targets.ClassifierOutputTarget(target) for target in TARGETS])
    for value, expected in zip(values, maps, strict=True):
        scaled = (value - value.min()) / (value.max() - value.min())
        assert float(np.abs(scaled.numpy() - expected).max()) < 1e-4


def test_names_may_be_a_list_or_text():
    expected = explain("hires-cam", "act1+act2").values
    for layer in (["act1", "act2"], ("act1", "act2"), "act1,act2", "act1 + act2"):
        assert torch.equal(explain("hires-cam", layer).values, expected)
    assert torch.equal(explain("hires-cam", ["act2"]).values, of_one_layer("hires-cam", "act2"))
    automatic = explain("hires-cam", ["act1", "auto"])
    assert torch.equal(automatic.values, expected)
    assert automatic.facts == {"layer": "act1+act2"}


def test_name_may_contain_a_plus_sign():
    net = nn.ModuleDict({"a+b": nn.Conv2d(3, 4, 3).double()})
    net.forward = lambda x: net["a+b"](x).mean(dim=(2, 3))
    result = xplain.attribute(toys.classifier(net), X, "hires-cam", target=1, layer="a+b")
    assert result.facts == {"layer": "a+b"}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("act1+act1", "layer 'act1' is named 2 times; name each layer once"),
        ("act2+auto", "layer 'act2' is named 2 times; name each layer once"),
        ("act1+act9", "the model has no layer 'act9'; did you mean"),
        ("act1+", "the model has no layer ''; use a name such as "),
        (["act1", 2], "the layer is of type list; pass its name or the module, or a list of them"),
        ([], "the layer is of type list; pass its name or the module, or a list of them"),
        ("act1+head", "layer 'head' has no spatial output (height and width); use another layer"),
    ],
)  # fmt: skip
def test_wrong_layers_are_refused(layer, message):
    with pytest.raises(UsageError) as error:
        explain("grad-cam", layer)
    assert str(error.value).startswith(message)


def test_other_parameters_take_no_list():
    with pytest.raises(UsageError) as error:
        explain("grad-cam", "act1", layout=["8x10"])
    assert str(error.value).startswith("grad-cam: invalid value layout=['8x10']; use auto, HxW")


@pytest.mark.parametrize("method", CAMS)
def test_layers_share_their_passes(method):
    """One forward and backward pass for all layers; score-cam and ablation-cam run once per channel of each."""
    classifier, _ = toys.with_pixels(NET)
    rows = count_rows(classifier, (8, 10))
    cost = xplain.attribute(classifier, X, method, target=TARGETS, layer="act1+act2").cost
    passes = {
        "score-cam": (1 + 8 + 12, 0),
        "ablation-cam": (1 + 8 + 12, 0),
        "eigen-cam": (1, 0),
        "guided-grad-cam": (2, 2),
    }
    forwards, backwards = passes.get(method, (1, 1))
    assert (cost.forwards, cost.backwards) == (3 * forwards, 3 * backwards)
    assert cost.forwards + cost.checks in possible_forwards(rows)
    assert rows["backwards"] == cost.backwards
    claims = METHODS.get(method).cost(**METHODS.get(method).resolve({"layer": "act1+act2"}))
    assert forwards <= claims[0]
    assert backwards == claims[1]


def test_layers_of_tokens_and_of_maps_are_averaged():
    """A convolution and a block of tokens after a class token and a register."""
    classifier = toys.classifier(toys.token_net(1), preprocessing=Preprocessing(size=(8, 10)))
    together, *alone = (
        xplain.attribute(classifier, X, "grad-cam", target=2, layer=layer).values
        for layer in ("conv1+blocks.0", "conv1", "blocks.0")
    )
    toys.assert_same(together, sum(alone) / 2)
    assert all(float(values.max()) > 0 for values in alone)


def test_records_and_file_names_tell_layers_apart():
    choices = [Choice.parse(text) for text in ("grad-cam", "grad-cam:layer=act1+act2", "grad-cam:layer=act1")]
    plain, several, single = resolve_methods(choices, None, CLASSIFIER)
    assert plain.describe()["params"] == {"layer": "auto"}  # as recorded by versions without scale_layers
    assert several.describe()["params"] == {"layer": "act1+act2"}
    assert several.label == "grad-cam:layer=act1+act2"
    assert len({fingerprint(run.describe()) for run in (plain, several, single)}) == 3
    scaled = resolve_methods([Choice.parse("grad-cam:layer=act1+act2,scale_layers=true")], None, CLASSIFIER)[0]
    assert scaled.describe()["params"] == {"layer": "act1+act2", "scale_layers": True}
    (common,) = resolve_methods([Choice("grad-cam")], None, CLASSIFIER, layer="act1,act2")
    assert common.describe()["params"] == {"layer": "act1,act2"}
    config = ExplainConfig(ModelOptions(), ComputeOptions(), (), (), None, layer="act1,act2")
    assert describe_settings(config, common) == "layer=act1,act2"
