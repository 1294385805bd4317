"""Functions as models: arrays or tensors in, arrays, tensors or lists out; gradients and layers are refused before any call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.helpers.onnx_files import SIDES, images, twin
from xplain.core.errors import InputError, UsageError
from xplain.core.registry import METHODS, METRICS
from xplain.models.checks import ModelChecks
from xplain.oracle import Oracle
from xplain.pipelines.compatibility import minimal_settings

pytestmark = pytest.mark.filterwarnings("ignore::xplain.core.errors.ModelNote")
X = images()
NET = twin()
LOGITS = NET(X).detach()
OUTPUTS_ONLY = {"random", "sobel", "center", "rise", "occlusion", "lime", "kernel-shap"}
LAYERS_ONLY = {"score-cam", "ablation-cam", "eigen-cam", "attention-rollout"}


def load(function, **options) -> xplain.Classifier:
    return xplain.load_classifier(function, device="cpu", **{"size": SIDES, **options})


def to_array(x: np.ndarray) -> np.ndarray:
    assert isinstance(x, np.ndarray)
    return NET(torch.from_numpy(x)).detach().double().numpy()


def to_tensor(x: Tensor) -> Tensor:
    assert isinstance(x, Tensor), "not a tensor"
    return NET(x)


def to_tensor_after_damage(x: np.ndarray | Tensor) -> Tensor:
    """Overwrite an array and fail; a later tensor must still hold the images."""
    if isinstance(x, np.ndarray):
        x[:] = 0
        raise TypeError("not a tensor")
    return NET(x)


class Service:
    """A callable object that returns lists and modifies its input."""

    def __call__(self, x: np.ndarray) -> list[list[float]]:
        output = to_array(x).tolist()
        x[:] = 0
        return output


@pytest.mark.parametrize(
    "function", [to_array, to_tensor, to_tensor_after_damage, Service(), lambda x: {"logits": to_array(x), "name": "a"}]
)
def test_function_equals_the_network(function):
    classifier = load(function)
    assert float((classifier(X) - LOGITS).abs().max()) < 1e-6
    assert (classifier.classes, classifier.size, classifier.dtype) == (5, SIDES, torch.float32)
    expected = xplain.attribute(toys.classifier(twin()), X, "occlusion", target=2, window=3)
    result = xplain.attribute(classifier, X, "occlusion", target=2, window=3)
    assert float((result.values - expected.values).abs().max()) < 1e-5
    assert result.cost.forwards == expected.cost.forwards


def test_scikit_learn_model_is_explained():
    """Four blocks of pixels decide between four classes; the map of a class is at its block."""
    rng = np.random.default_rng(0)
    pixels = rng.random((200, 3, 8, 8), dtype=np.float32)
    labels = np.stack([pixels[:, :, :4, :4], pixels[:, :, :4, 4:], pixels[:, :, 4:, :4], pixels[:, :, 4:, 4:]], 1)
    labels = labels.reshape(200, 4, -1).mean(axis=2).argmax(axis=1)
    model = LogisticRegression(max_iter=500).fit(pixels.reshape(200, -1), labels)
    classifier = load(lambda x: model.predict_proba(x.reshape(len(x), -1)), size=8, classes=["a", "b", "c", "d"])
    assert classifier.notes == [
        "the model ends in a softmax that cannot be skipped; using the logarithm of its output as the logits"
    ]
    x = torch.full((1, 3, 8, 8), 0.5)
    for target, block in ((0, (0, 0)), (3, (4, 4))):
        values = xplain.attribute(classifier, x, "occlusion", target="abcd"[target], window=4, stride=4).values[0, 0]
        row, column = divmod(int(values.argmax()), 8)
        assert (row // 4 * 4, column // 4 * 4) == block


def test_gray_function_gets_one_channel():
    weight = np.linspace(-1, 1, 80 * 3).reshape(80, 3)
    classifier = load(lambda x: x.reshape(len(x), 80) @ weight)
    assert classifier.channels == 1
    assert classifier(X).shape == (3, 3)


def test_one_value_per_image_is_one_output():
    classifier = load(lambda x: to_array(x)[:, 2])
    assert classifier.output.activation == "binary"
    assert float((classifier(X) - torch.cat([-LOGITS[:, 2:3], LOGITS[:, 2:3]], dim=1)).abs().max()) < 1e-6


def test_size_mean_and_std():
    classifier = load(to_array, mean=[0.5, 0.25, 0.125], std=0.5)
    scaled = (X - torch.tensor([0.5, 0.25, 0.125])[:, None, None]) / 0.5
    assert float((classifier(X) - NET(scaled).detach()).abs().max()) < 1e-5
    with pytest.raises(UsageError) as error:
        load(to_array, std=[1, 0, 1])
    assert str(error.value) == "invalid std [1, 0, 1] for 3 channels; pass one number above 0 per channel"
    with pytest.raises(UsageError) as error:
        xplain.load_classifier("resnet18", mean=[0.5])
    assert str(error.value) == (
        "the model 'resnet18' has its own input size and normalization; remove size, mean and std"
    )


def test_classes_are_names_or_a_number():
    assert load(to_array, classes=list("abcde")).labels == list("abcde")
    assert load(to_array, classes=5).labels == []
    for classes, message in (
        (
            list("abc"),
            "the list of classes has 3 names, but to_array has 5 classes; use --classes with one name per class",
        ),
        (4, "to_array has 5 classes, not 4; pass the right number"),
    ):
        with pytest.raises(InputError) as error:
            load(to_array, classes=classes)
        assert str(error.value) == message


def test_wrong_functions_are_refused():
    size = "does not accept images of 8 x 10 pixels"
    for function, message in (
        (lambda x: None, f"<lambda> {size} (the model returned NoneType instead of an array (images, classes))"),
        (lambda x: x.mean((1, 2, 3))[:1], f"<lambda> {size} (the model returned an array of shape (1,) for 2 images)"),
        (lambda x: 1 / 0, f"<lambda> {size} (the model failed: ZeroDivisionError: division by zero)"),
        (
            lambda x: x.missing,
            f"<lambda> {size} (the model failed: AttributeError: 'Tensor' object has no attribute 'missing')",
        ),
        (lambda x: x.argmax((1, 2, 3)), f"<lambda> {size} (the model failed: TypeError: argmax(): "),
    ):
        with pytest.raises(InputError) as error:
            load(function)
        assert str(error.value).startswith(message)
    with pytest.raises(UsageError, match=r"^a function has no weights to load; remove weights$"):
        load(to_array, weights="a.pt")
    with pytest.raises(UsageError, match=r"^the model is of type type; create it"):
        load(Service)


def test_fault_in_the_middle_of_a_method_is_one_line():
    calls = []

    def unreliable(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        if len(calls) > limit:
            raise ConnectionError("refused by the server\nafter some calls")
        return to_array(x)

    limit = 99
    classifier = load(unreliable)
    limit = len(calls) + 3
    with pytest.raises(InputError, match=r"^the model failed: ConnectionError: refused by the server$"):
        xplain.attribute(classifier, X, "occlusion", target=0, window=3, batch_size=4)


@pytest.mark.parametrize("spec", METHODS, ids=lambda spec: spec.name)
def test_only_methods_that_call_the_model_fit(spec):
    rows = []

    def counted(x: np.ndarray) -> np.ndarray:
        rows.append(len(x))
        return to_array(x)

    classifier = load(counted)
    rows.clear()
    if spec.name in OUTPUTS_ONLY:
        result = xplain.attribute(classifier, X, spec.name, **minimal_settings(spec, SIDES))
        assert sum(rows) == result.cost.forwards + result.cost.checks
        assert result.cost.backwards == 0
        return
    needed = "the layers of a PyTorch model, which counted does not have"
    if spec.name not in LAYERS_ONLY:
        needed = "gradients, which counted does not provide"
    with pytest.raises(UsageError) as error:
        xplain.attribute(classifier, X, spec.name)
    hint = "use rise, occlusion, lime or kernel-shap, and metrics that need no gradient"
    assert str(error.value) == f"{spec.name} requires {needed}; {hint}"
    assert rows == []


def test_access_of_methods_and_metrics():
    """A method needs gradients exactly if it costs backward passes."""
    specs = [spec for spec in METHODS if spec.name != "smooth"]  # which needs what its inner method needs
    assert {spec.name for spec in specs if spec.access == "outputs"} == OUTPUTS_ONLY
    assert {spec.name for spec in METHODS if spec.access == "layers"} == LAYERS_ONLY
    for spec in specs:
        assert (spec.cost(**spec.resolve({}))[1] > 0) == (spec.access == "gradients"), spec.name
    assert {spec.name for spec in METRICS if spec.access != "outputs"} == {"parameter-randomisation", "smprt", "emprt"}


def test_metrics_that_need_more_are_refused_before_any_row():
    rows = []
    classifier = load(lambda x: (rows.append(len(x)), to_array(x))[1])
    rows.clear()
    maps = torch.ones(3, 1, *SIDES)
    for metric, method in (("parameter-randomisation", "rise"), ("max-sensitivity", "saliency")):
        with pytest.raises(UsageError, match=r"requires (the layers|gradients)"):
            xplain.measure(classifier, X, maps, metric, method=method)
    assert rows == []


def test_oracle_refuses_gradients_and_layers():
    oracle = Oracle(load(to_array))
    y = torch.zeros(3, dtype=torch.long)
    for call in (
        lambda: oracle.gradients(X, y),
        lambda: oracle.probe(X, y),
        lambda: oracle.inference_copy(fold=True, access="layers"),
    ):
        with pytest.raises(
            UsageError, match=r"^the method requires (gradients|the layers of a PyTorch model), which to_array "
        ):
            call()


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_precision_is_refused(precision):
    with pytest.raises(UsageError) as refused:
        xplain.attribute(load(to_tensor), X, "occlusion", target=0, precision=precision)
    assert str(refused.value) == (
        "the precision of to_tensor is fixed, because PyTorch does not run it; use --precision fp32"
    )


def test_module_without_gradients_keeps_layer_methods():
    """Methods that need no gradient may still read the layers of a module without gradients."""
    classifier = toys.classifier(twin())
    classifier.checks = ModelChecks(gradient_problem="detaches its input", gradient_hint="use rise")
    with pytest.raises(UsageError, match=r"^saliency needs gradients, and the model detaches its input; use rise$"):
        xplain.attribute(classifier, X, "saliency")
    assert xplain.attribute(classifier, X, "score-cam").values.shape == (3, 1, *SIDES)
