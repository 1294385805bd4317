"""Detecting the activation at the end of networks, and reading the logits in front of it."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xplain
from tests.helpers import toys
from tests.helpers.output_networks import SIZE, Ending, X, body, followed_by, load
from xplain.core.errors import InputError, ModelNote, UsageError
from xplain.data.preprocessing import Preprocessing
from xplain.models.final_activation import invert_activation
from xplain.models.inspection import inspect_model
from xplain.models.optimize import optimize_for_inference
from xplain.models.output_detection import detect_output
from xplain.models.output_request import EXCLUSIVE_NOTE, ONE_LABEL_NOTE, ONE_OUTPUT_NOTE, OutputRequest
from xplain.models.outputs import OutputKind

pytestmark = pytest.mark.filterwarnings("ignore::xplain.core.errors.ModelNote")
SOFTMAX_NOTE = "the model ends in a softmax that cannot be skipped; using the logarithm of its output as the logits"
SIGMOID_NOTE = "the model ends in a sigmoid that cannot be skipped; using the logit of its output as the logits"


def kind_of(model: nn.Module, **options) -> tuple[str, str, bool]:
    output = load(model, **options).output
    return output.activation, output.source, output.is_peeled


def written_softmax(z):
    return z.exp() / z.exp().sum(dim=1, keepdim=True)


@pytest.mark.parametrize(
    "end",
    [
        nn.Softmax(dim=1),
        nn.LogSoftmax(dim=-1),
        lambda z: z.softmax(1),
        lambda z: F.softmax(input=z, dim=1),
        lambda z: torch.softmax(z, 1).clone(),
        lambda z: torch.special.log_softmax(z, 1),
        lambda z: (z.softmax(1), z[:, :2]),
        lambda z: F.softmax(z[:, :, None, None], dim=1),
        lambda z: torch.ops.aten.softmax.int(z, 1),
        lambda z: F.softmin(-z, dim=1),
    ],
)
def test_final_softmax_is_skipped(end):
    classifier = load(Ending(body(4), end))
    assert (classifier.output.activation, classifier.output.source, classifier.output.is_peeled) == (
        "softmax",
        "graph",
        True,
    )
    assert torch.equal(classifier(X), body(4)(X))


@pytest.mark.parametrize(
    "end",
    [
        nn.Sigmoid(),
        nn.LogSigmoid(),
        lambda z: z.sigmoid(),
        F.sigmoid,
        torch.special.expit,
        lambda z: z.clone().sigmoid_(),
        lambda z: {"a": z[:, :1].clone(), "logits": z.sigmoid()},
    ],
)
@pytest.mark.parametrize("outputs", [2, 4])
def test_final_sigmoid_is_skipped(end, outputs):
    classifier = load(Ending(body(outputs), end))
    assert (classifier.output.activation, classifier.output.is_peeled) == ("sigmoid", True)
    assert torch.equal(classifier(X), body(outputs)(X))


@pytest.mark.parametrize(
    "end",
    [
        nn.Sigmoid(),
        lambda z: z,
        lambda z: z.sigmoid().squeeze(),
        lambda z: z[:, 0],
        lambda z: z.sigmoid().flatten(),
        lambda z: z[:, :, None, None],
        lambda z: {"score": z.squeeze(), "features": torch.ones(7)},
    ],
)
def test_one_output_has_two_classes(end):
    classifier = load(Ending(body(1), end))
    z = body(1)(X)
    assert classifier.output.activation == "binary"
    assert classifier.classes == 2
    assert torch.equal(classifier(X), torch.cat([-z, z], dim=1))
    toys.assert_same(classifier(X[:1]), torch.cat([-z, z], dim=1)[:1])


def test_extreme_logits_are_exact():
    model = nn.Sequential(nn.Flatten(), nn.Linear(240, 1, bias=False), nn.Sigmoid())
    model.size = SIZE
    nn.init.constant_(model[1].weight, 1.0)
    classifier = load(model)
    images = X.float()
    assert float(model(images)[0]) == 1.0  # rounded
    toys.assert_same(classifier(images)[:, 1], images.sum(dim=(1, 2, 3)), rtol=1e-5)
    assert torch.equal(xplain.attribute(classifier, images, "saliency", target=1).values, torch.ones_like(images))


@pytest.mark.parametrize("columns", [2, 3])
def test_one_probability_of_softmax(columns):
    classifier = load(Ending(body(columns), lambda z: z.softmax(1)[:, 1]))
    assert classifier.output.activation == "binary"
    own = body(columns)(X).softmax(1)[:, 1]
    toys.assert_same(classifier(X)[:, 1].sigmoid(), own)
    assert torch.equal(classifier(X)[:, 0], -classifier(X)[:, 1])


@pytest.mark.parametrize(
    ("outputs", "end", "activation", "note"),
    [
        (4, torch.jit.script(nn.Softmax(dim=1)), "softmax", SOFTMAX_NOTE),
        (4, written_softmax, "softmax", SOFTMAX_NOTE),
        (4, torch.jit.script(nn.Sigmoid()), "sigmoid", SIGMOID_NOTE),
        (4, lambda z: 1 / (1 + torch.exp(-z)), "sigmoid", SIGMOID_NOTE),
        (1, lambda z: 1 / (1 + torch.exp(-z)), "binary", SIGMOID_NOTE),
        (1, lambda z: 1 - (-z).sigmoid(), "binary", SIGMOID_NOTE),
        (1, lambda z: z.sigmoid().clamp(1e-9, 1 - 1e-9), "binary", SIGMOID_NOTE),
    ],
)
def test_activation_that_cannot_be_skipped_is_inverted(outputs, end, activation, note):
    classifier = load(Ending(body(outputs), end))
    assert (classifier.output.activation, classifier.output.is_peeled) == (activation, False)
    assert classifier.notes == [note]
    z = body(outputs)(X)
    expected = z.log_softmax(1) if activation == "softmax" else z if activation == "sigmoid" else torch.cat([-z, z], 1)
    toys.assert_same(classifier(X), expected)


def test_rounded_probabilities_have_finite_logits():
    rounded = torch.tensor([[0.0, 1.0]])
    assert invert_activation("sigmoid", rounded).tolist()[0] == pytest.approx([-87.3365, 16.6355], abs=1e-4)
    assert invert_activation("log_sigmoid", torch.tensor([[-20.0, 0.0]])).tolist()[0] == pytest.approx(
        [-20, 87.3365], abs=1e-4
    )
    assert invert_activation("softmax", rounded).tolist()[0] == pytest.approx([-87.3365, 0], abs=1e-4)


def test_scripted_log_softmax_is_kept():
    classifier = load(Ending(body(4), torch.jit.script(nn.LogSoftmax(dim=1))))
    assert (classifier.output.activation, classifier.output.source) == ("softmax", "graph")
    assert classifier.notes == []
    assert float(classifier(X).logsumexp(dim=1).abs().max()) < 1e-12


@pytest.mark.parametrize(
    "end",
    [
        lambda z: z,
        nn.ReLU(),
        lambda z: z.softmax(0),
        lambda z: 0.5 + z / z.abs().max() / 3,  # in [0, 1] by chance
        lambda z: z.softmax(1) * z,
        lambda z: {"probabilities": z.softmax(1), "logits": z},
    ],
)
def test_other_ends_are_logits(end):
    classifier = load(Ending(body(4), end))
    assert (classifier.output.activation, classifier.output.source, classifier.output.is_peeled) == (
        "softmax",
        "default",
        False,
    )
    own = Ending(body(4), end)(X)
    assert torch.equal(classifier(X), own["logits"] if isinstance(own, dict) else own)
    assert classifier.notes[0] == EXCLUSIVE_NOTE


def test_own_softmax_module_of_user_is_unchanged():
    model = followed_by(4, nn.Softmax(dim=1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    types = [type(module) for module in model.modules()]
    expected = model(X)
    xplain.attribute(load(model), X, "saliency")
    assert [type(module) for module in model.modules()] == types
    assert all(not module._forward_hooks for module in model.modules())
    assert torch.equal(model(X), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_detection_keeps_random_state():
    model = Ending(body(4), lambda z: F.dropout(z, 0.5).softmax(1))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    detected = detect_output(model, model, X, OutputRequest())
    assert torch.equal(torch.rand(4), expected)
    assert detected.kind.is_peeled  # the runs that are compared have the same dropout


def test_size_is_learnt_from_first_images():
    model = nn.Sequential(nn.Flatten(), nn.Linear(240, 3).double(), nn.Softmax(dim=1))
    classifier = load(model)
    assert classifier.classes is None
    values = xplain.attribute(classifier, X, "saliency", target=2).values
    assert classifier.output.is_peeled
    assert classifier.classes == 3
    toys.assert_same(values, model[1].weight[2].detach().reshape(1, 3, *SIZE).expand(2, -1, -1, -1))


def test_activation_of_user_wins():
    assert kind_of(body(4), activation="sigmoid") == ("sigmoid", "user", False)
    assert kind_of(followed_by(4, nn.Sigmoid()), activation="sigmoid") == ("sigmoid", "user", True)
    assert kind_of(followed_by(4, nn.Sigmoid()), activation="none") == ("none", "user", False)
    assert kind_of(body(1), activation="sigmoid") == ("binary", "user", False)
    assert kind_of(body(1), activation="none") == ("none", "user", False)
    model = body(4)
    model.activation = "sigmoid"
    assert kind_of(model) == ("sigmoid", "attribute", False)
    assert kind_of(model, activation="softmax") == ("softmax", "user", False)
    model.activation = "relu"  # that of another layer
    assert kind_of(model) == ("softmax", "default", False)


def test_activation_none_keeps_values():
    model = followed_by(4, nn.Sigmoid())
    assert torch.equal(load(model, activation="none")(X), model(X))
    value = load(body(1), activation="none")
    assert value.classes == 1
    assert torch.equal(value(X), body(1)(X))


def hugging_face(outputs: int, problem: str | None, *, end: nn.Module | None = None) -> nn.Module:
    model = body(outputs) if end is None else followed_by(outputs, end)
    model.config = SimpleNamespace(problem_type=problem, num_labels=outputs, to_dict=dict)
    model.main_input_name = "pixel_values"
    model.mean, model.std = [0.0] * 3, [1.0] * 3  # otherwise a note says that the normalization is not known
    return model


@pytest.mark.parametrize(
    ("outputs", "problem", "activation", "notes"),
    [
        (4, None, "softmax", []),
        (4, "single_label_classification", "softmax", []),
        (4, "multi_label_classification", "sigmoid", []),
        (1, "multi_label_classification", "binary", []),
        (4, "regression", "none", []),
        (1, "regression", "none", []),
        (1, None, "none", [ONE_LABEL_NOTE]),
    ],
)
def test_problem_type_of_configuration(outputs, problem, activation, notes):
    classifier = load(hugging_face(outputs, problem))
    assert (classifier.output.activation, classifier.output.source) == (activation, "config")
    assert classifier.notes == notes


def test_end_of_network_wins_over_configuration():
    assert kind_of(hugging_face(4, None, end=nn.Sigmoid())) == ("sigmoid", "graph", True)
    assert kind_of(hugging_face(1, None), activation="sigmoid") == ("binary", "user", False)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (
            followed_by(4, nn.Softmax(dim=1)),
            {"activation": "sigmoid"},
            UsageError,
            "the model ends in a softmax, but --activation is sigmoid; remove the option, or remove the softmax",
        ),
        (
            followed_by(4, nn.Sigmoid()),
            {"activation": "softmax"},
            UsageError,
            "the model ends in a sigmoid, but --activation is softmax; remove the option, or remove the sigmoid",
        ),
        (
            body(1),
            {"activation": "softmax"},
            UsageError,
            "the model has one output, and --activation is softmax; use sigmoid or none",
        ),
        (
            followed_by(1, nn.Softmax(dim=1)),
            {},
            InputError,
            "the model ends in a softmax over one output, which is always 1; return the logit, or use a sigmoid",
        ),
        (
            body(4),
            {"threshold": 0.3},
            UsageError,
            "--threshold requires sigmoid outputs or values; a softmax decides for the largest; remove it, or set the activation to "
            "sigmoid",
        ),
        (
            body(4),
            {"threshold": 3, "activation": "sigmoid"},
            UsageError,
            "--threshold is 3, not a probability; use a number between 0 and 1",
        ),
        (
            body(4),
            {"threshold": [0.1, 0.2], "activation": "sigmoid"},
            UsageError,
            "--threshold has 2 values for 4 outputs; use one number, or one number per label",
        ),
        (
            body(4),
            {"threshold": float("nan")},
            UsageError,
            "invalid threshold nan; use one number, or one number per label",
        ),
        (body(4), {"activation": "sigmod"}, UsageError, "unknown activation 'sigmod'; did you mean 'sigmoid'?"),
        (
            body(4),
            {"logits": 1.5},
            UsageError,
            "invalid logits 1.5; use the name or index of an entry of the model's output",
        ),
    ],
)
def test_contradictions_are_refused(model, options, error, message):
    with pytest.raises(error) as caught:
        load(model, **options)
    assert str(caught.value) == message


def test_contradicting_attributes_are_refused():
    model = followed_by(4, nn.Softmax(dim=1))
    model.activation = "sigmoid"
    with pytest.raises(InputError) as error:
        load(model)
    assert str(error.value) == (
        "the model ends in a softmax, but its attribute 'activation' is 'sigmoid'; delete the attribute, or remove the softmax"
    )
    model = body(4)
    model.threshold = 0.2
    with pytest.raises(InputError, match=r"^the model's attribute 'threshold' requires sigmoid outputs or values;"):
        load(model)


def test_threshold_of_options_and_attributes():
    model = body(3)
    model.activation, model.threshold = "sigmoid", torch.tensor([0.2, 0.5, 0.9])
    assert load(model).output.threshold == pytest.approx((0.2, 0.5, 0.9))
    assert load(model, threshold=0.7).output.threshold == 0.7
    assert load(body(1), activation="none", threshold=-3).output.threshold == -3.0
    assert load(body(1), threshold=0.2).output.threshold == 0.2
    z = torch.tensor([[-1.0, 1.0, 1.0]])
    assert load(model).output.decisions(z).tolist() == [[True, True, False]]


def test_logits_of_several_outputs():
    model = Ending(body(5), lambda z: {"age": z[:, :1], "heads": {"sex": z[:, 1:3]}})
    classifier = load(model, logits="heads.sex")
    assert torch.equal(classifier(X), body(5)(X)[:, 1:3])
    assert classifier.output.entry == "heads.sex"
    model.output = "age"
    assert torch.equal(load(model)(X)[:, 1], body(5)(X)[:, 0])
    pair = Ending(body(5), lambda z: (z, z[:, :2].sigmoid()))
    assert torch.equal(load(pair, logits=1)(X), body(5)(X)[:, :2])
    assert load(pair, logits=1).output.activation == "sigmoid"


def test_notes_of_assumptions_are_emitted_once():
    model = Ending(body(5), lambda z: (z, z[:, :2]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier = load(model)
    notes = [str(warning.message) for warning in caught if warning.category is ModelNote]
    several = (
        "the model returns 2 outputs, (B, 5) and (B, 2); using the first as the logits (set --logits 1 for another)"
    )
    assert classifier.notes == [several, EXCLUSIVE_NOTE]
    assert notes == [*classifier.notes, "from the module: size 8 x 10"]
    assert load(body(1)).notes == [ONE_OUTPUT_NOTE]


@pytest.mark.parametrize(
    ("labels", "expected"), [(["tumour"], ["not tumour", "tumour"]), (["healthy", "tumour"], ["healthy", "tumour"])]
)
def test_class_names_of_one_output(tmp_path, labels, expected):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(labels))
    classifier = load(body(1), classes=path)
    assert classifier.labels == expected
    assert classifier.class_names.find("tumour") == 1
    path.write_text("a\nb\nc")
    with pytest.raises(InputError, match="has 3 names, but SmallNet has 2 classes"):
        load(body(1), classes=path)


@pytest.mark.parametrize(("count", "notes"), [(1000, []), (7, [EXCLUSIVE_NOTE])])
def test_module_of_torchvision_is_known_only_with_its_own_classes(count, notes):
    from torchvision.models import squeezenet1_1

    model = squeezenet1_1(num_classes=count)
    model.size = 40
    assert load(model).notes == notes


def known_output(outputs: int, kind: OutputKind) -> tuple[str, str, int]:
    """Return the activation, its source and the number of classes of a library's network whose loader knows the kind."""
    classifier = xplain.Classifier(body(outputs), name="known", preprocessing=Preprocessing(SIZE, 10))
    activation = "sigmoid" if kind.activation == "binary" else kind.activation
    told = {} if kind.source == "default" else {"activation": activation, "source": kind.source}
    classifier.request = OutputRequest(known_kind=kind, **told)
    inspect_model(classifier)
    assert classifier.notes == ([ONE_OUTPUT_NOTE] if outputs == 1 and kind.source == "default" else [])
    return classifier.output.activation, classifier.output.source, classifier.classes


def test_outputs_of_library_models():
    assert known_output(4, OutputKind()) == ("softmax", "default", 4)
    assert known_output(1, OutputKind()) == ("binary", "default", 2)
    assert known_output(4, OutputKind("sigmoid", "config")) == ("sigmoid", "config", 4)
    assert known_output(1, OutputKind("none", "config")) == ("none", "config", 1)
    assert known_output(2, OutputKind("binary", "config")) == ("binary", "config", 2)
    assert known_output(1, OutputKind("binary", "config")) == ("binary", "config", 2)


@pytest.mark.parametrize("activation", ["none", "sigmoid"])
def test_batch_norms_of_one_output_are_folded(activation):
    model = toys.small_net(classes=1)
    model.size = SIZE
    classifier = load(model, activation=activation)
    optimized = optimize_for_inference(classifier)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in optimized.modules())
    toys.assert_same(optimized(X), classifier(X))


def test_describe_output():
    assert load(followed_by(1, nn.Sigmoid()), threshold=0.3).output.describe() == {
        "activation": "binary",
        "source": "graph",
        "peeled": True,
        "threshold": 0.3,
        "name": "",
    }
    assert load(body(4)).output.settings == {}
    assert load(body(4), activation="sigmoid").output.settings == {"activation": "sigmoid"}


@pytest.mark.parametrize("end", [nn.Identity(), nn.Sigmoid()])
def test_scripted_networks_of_one_output(end):
    network = body(1)
    scripted = torch.jit.script(nn.Sequential(network, end))
    scripted.size = SIZE
    classifier = load(scripted)
    raw = network(X)
    assert classifier.output.activation == "binary"
    toys.assert_same(classifier(X), torch.cat([-raw, raw], dim=1))
    expected = xplain.attribute(load(network), X, "saliency", target=0).values
    toys.assert_same(xplain.attribute(classifier, X, "saliency", target=0).values, expected)
