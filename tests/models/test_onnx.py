"""ONNX models: logits and maps equal PyTorch's, files are read from the folder of the model only, and wrong graphs are refused."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

import xplain
from tests.conftest import SAMPLES
from tests.helpers import toys
from tests.helpers.onnx_files import SIDES, images, make_model, move_outside, set_location, twin, write
from xplain.core.errors import DeviceError, InputError, ModelNote, UsageError
from xplain.models.onnx_graph import read_onnx_graph
from xplain.models.optimize import copy_classifier

pytestmark = pytest.mark.filterwarnings("ignore::xplain.core.errors.ModelNote")
X = images()
LOGITS = twin()(X).detach()


def load(name: str, **options) -> xplain.Classifier:
    return xplain.load_classifier(name, device="cpu", **options)


def load_error(name: str, **options) -> str:
    """Return the text of the XplainError that loading the model raises."""
    with pytest.raises((UsageError, InputError)) as error:
        load(name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def is_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return actual.shape == expected.shape and float((actual - expected).abs().max()) <= tolerance


def test_maps_and_metrics_equal_pytorch(tmp_path):
    classifier = load(write(tmp_path / "a.onnx"))
    expected = toys.classifier(twin())
    assert (classifier.size, classifier.classes, classifier.channels) == (SIDES, 5, 3)
    assert is_near(classifier(X), LOGITS)
    methods = {
        "rise": {"masks": 20},
        "occlusion": {"window": 3},
        "lime": {"samples": 30},
        "kernel-shap": {"samples": 30},
    }
    for method, options in methods.items():
        ours, theirs = (xplain.attribute(each, X, method, target=1, **options) for each in (classifier, expected))
        assert is_near(ours.values, theirs.values), method
        assert (ours.cost.forwards, ours.cost.backwards) == (theirs.cost.forwards, 0)
    maps = torch.linspace(0, 1, 3 * 80).reshape(3, 1, *SIDES)
    for metric, options in {"deletion": {}, "insertion": {}, "sensitivity-n": {"grid": 4}, "road": {}}.items():
        ours, theirs = (xplain.measure(each, X, maps, metric, **options) for each in (classifier, expected))
        assert is_near(ours.values.float(), theirs.values.float(), 1e-4), metric


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_fixed_batch_size_is_chunked_and_padded(tmp_path, rows):
    classifier = load(write(tmp_path / "a.onnx", rows=rows, flat_rows=rows))
    for count in (1, 3, 7):
        assert is_near(classifier(images(count)), twin()(images(count)).detach())
    result = xplain.attribute(classifier, X, "rise", masks=3, batch_size=3)
    padded = -(-3 // rows) * rows
    assert (result.cost.forwards, result.cost.checks) == (3 * padded, padded)  # the rows of the padding count


def test_graph_that_accepts_one_row_is_called_by_row(tmp_path):
    """The declared number of rows is any, but the graph reshapes to one row."""
    classifier = load(write(tmp_path / "a.onnx", flat_rows=1))
    assert is_near(classifier(X), LOGITS)


@pytest.mark.parametrize("after", [(), ("Identity",), ("Flatten", "Identity")])
def test_activation_at_the_end_is_inverted(tmp_path, after):
    ends = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
    for end, activation in ends.items():
        classifier = load(write(tmp_path / f"{end}.onnx", end=(end, *after)))
        expected = LOGITS if end == "Sigmoid" else LOGITS.log_softmax(dim=1)
        assert is_near(classifier(X), expected), end
        assert (classifier.output.activation, classifier.output.is_peeled) == (activation, False)
    bare = load(write(tmp_path / "a.onnx", end=after))
    assert bare.output.source == "default"


def test_several_outputs(tmp_path):
    """A floating-point output next to the decision, two candidates, and two of which one is called logits."""
    model = make_model(end=("Softmax",))
    model.graph.node.append(helper.make_node("ArgMax", ["logits1"], ["label"], axis=1))
    model.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, None))
    classifier = load(write(tmp_path / "a.onnx", model))
    assert is_near(classifier(X), LOGITS.log_softmax(dim=1))
    assert classifier.output.activation == "softmax"
    model = make_model(end=("Sigmoid",))
    model.graph.output.append(helper.make_tensor_value_info("logits0", TensorProto.FLOAT, None))
    text = load_error(write(tmp_path / "b.onnx", model))
    assert text == "the model returns logits1 (B, 5) and logits0 (B, 5); choose one, such as --logits logits0"
    model.graph.node[3].output[0] = model.graph.node[4].input[0] = model.graph.output[1].name = "logits"
    classifier = load(write(tmp_path / "c.onnx", model))
    assert is_near(classifier(X), LOGITS)
    assert classifier.output.source == "default"


def test_memory_errors_are_recognized(tmp_path, monkeypatch):
    classifier = load(write(tmp_path / "a.onnx"))

    class FullSession:
        def run(self, *_: object) -> None:
            raise Exception("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9")

    monkeypatch.setattr(classifier.model, "_sessions", {torch.device("cpu"): FullSession()})
    with pytest.raises(DeviceError, match=r"^out of memory on cpu with a single image of 8x10 pixels; "):
        xplain.attribute(classifier, X, "occlusion", target=0)


def test_notes_say_what_was_assumed(tmp_path):
    with pytest.warns(ModelNote) as warnings:
        load(write(tmp_path / "a.onnx", end=("Sigmoid",), channels_last=True))
    assert [str(warning.message) for warning in warnings] == [
        "the input 'x' has its channels last",
        "the model output is a sigmoid; using log p - log(1 - p) as the logits",
        "the model receives pixels in [0, 1]; use --mean and --std if it expects normalized pixels",
    ]


def test_saturated_probabilities_have_finite_logits(tmp_path):
    model = make_model(end=("Sigmoid",))
    bias = numpy_helper.to_array(model.graph.initializer[3]).copy()
    bias[:2] = (300, -300)
    model.graph.initializer[3].CopyFrom(numpy_helper.from_array(bias, "3.bias"))
    logits = load(write(tmp_path / "a.onnx", model))(X)
    assert logits[:, 0].tolist() == pytest.approx([np.log(2.0**25)] * 3)
    assert logits[:, 1].tolist() == pytest.approx([149 * -np.log(2)] * 3)


def test_half_precision_input(tmp_path):
    logits = load(write(tmp_path / "a.onnx", dtype=TensorProto.FLOAT16))(X)
    assert logits.dtype == torch.float32
    assert is_near(logits, LOGITS, 1e-2)


def test_double_precision_input(tmp_path):
    weight = torch.rand((240, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["rows", 3, *SIDES])],
        [helper.make_tensor_value_info("logits", TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(weight.numpy(), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    classifier = load(write(tmp_path / "a.onnx", model))
    assert classifier.dtype == torch.float64
    assert is_near(classifier(X.double()), X.double().flatten(1) @ weight, 1e-12)


def test_channels_last_and_one_channel(tmp_path):
    assert is_near(load(write(tmp_path / "a.onnx", channels_last=True))(X), LOGITS)
    gray = load(write(tmp_path / "b.onnx", channels=1))
    assert (gray.channels, gray.size) == (1, SIDES)
    assert is_near(gray(images(2, 1)), twin(1)(images(2, 1)).detach())


def test_metadata_holds_normalization_and_labels(tmp_path):
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.25, 0.2)
    scaled = (X - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    expected = twin()(scaled).detach()
    metadata = {"mean": "[0.5, 0.25, 0.125]", "std": "[0.5, 0.25, 0.2]", "labels": '["a","b","c","d","e"]'}
    classifier = load(write(tmp_path / "a.onnx", metadata=metadata))
    assert is_near(classifier(X), expected)
    assert classifier.labels == list("abcde")
    options = load(
        write(tmp_path / "b.onnx", metadata={"names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e'}"}), mean=mean, std=std
    )
    assert is_near(options(X), expected)
    assert options.labels == list("abcde")
    assert is_near(load(write(tmp_path / "c.onnx", metadata=metadata), mean=[0], std=1)(X), LOGITS)
    text = load_error(write(tmp_path / "d.onnx", metadata={"mean": "gray"}))
    assert text == "the metadata 'mean' of the ONNX model is 'gray'; write a list of numbers"


def test_dynamic_size_follows_the_image_size(tmp_path):
    name = write(tmp_path / "a.onnx", sides=("height", "width"))
    assert load_error(name).startswith(f"{name} does not accept images of 224 x 224 pixels")
    assert load(name, size=SIDES).size == SIDES
    fixed = write(tmp_path / "b.onnx")
    assert load_error(fixed, image_size=12).startswith(f"{fixed} does not accept images of 12 x 12 pixels")


def test_external_data_is_read_and_hashed(tmp_path):
    model = make_model()
    content = move_outside(model, "a.data")
    (tmp_path / "a.data").write_bytes(content)
    name = write(tmp_path / "a.onnx", model)
    classifier = load(name)
    assert is_near(classifier(X), LOGITS)
    (tmp_path / "a.data").write_bytes(np.zeros(len(content) // 4, np.float32).tobytes())
    changed = load(name)
    assert not is_near(changed(X), LOGITS)
    whole = load(write(tmp_path / "b.onnx"))
    assert len({classifier.weights.sha256, changed.weights.sha256, whole.weights.sha256}) == 3
    (tmp_path / "a.data").unlink()
    assert load_error(name) == f"the data file 'a.data' of '{tmp_path / 'a.onnx'}' not found; put it beside the model"


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_external_data_outside_the_folder_is_refused(tmp_path, kind):
    folder = tmp_path / "model"
    folder.mkdir()
    outside = tmp_path / "a.data"
    locations = {"parent": "../a.data", "absolute": str(outside), "link": "link.data"}
    model = make_model()
    outside.write_bytes(move_outside(model, locations[kind]))
    if kind == "link":
        (folder / "link.data").symlink_to(outside)
    assert load_error(write(folder / "a.onnx", model)) == (
        f"'{folder / 'a.onnx'}' refers to data outside its folder: {locations[kind]!r}; save the data beside the model"
    )


def test_external_data_is_found_in_subgraphs_and_functions(tmp_path):
    """Data of a branch of an If, of a node's constant and of a function."""
    tensors = [numpy_helper.from_array(np.ones(2, np.float32), "w") for _ in range(3)]
    for index, tensor in enumerate(tensors):
        set_location(tensor, f"../{index}.data", 8)
    output = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2])
    branch = helper.make_graph([], "branch", [], [output], [tensors[0]])
    constant = helper.make_node("Constant", [], ["c"], value=tensors[1])
    model = make_model()
    model.graph.node.append(helper.make_node("If", ["x"], ["i"], then_branch=branch, else_branch=branch))
    model.graph.node.append(constant)
    node = helper.make_node("Constant", [], ["f"], value=tensors[2])
    model.functions.append(helper.make_function("own", "f", [], ["f"], [node], [helper.make_opsetid("", 17)]))
    write(tmp_path / "a.onnx", model)
    assert read_onnx_graph(tmp_path / "a.onnx").external_files == ("../0.data", "../1.data", "../2.data")
    assert "refers to data outside its folder: '../0.data'" in load_error(f"onnx:{tmp_path / 'a.onnx'}")


def test_unsuitable_graphs_are_refused(tmp_path):
    path = tmp_path / "a.onnx"
    model = make_model()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    assert load_error(write(path, model)) == f"'{path}' has 2 inputs (x, mask); export a model that takes images only"
    model = make_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT))
    model.graph.node[1].input[0] = "cast"
    assert load_error(write(path, model)) == (
        f"the input 'x' of '{path}' is tensor(uint8), not floating point; export the model without the conversion of the pixels"
    )
    flat = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 240])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    flat_model = helper.make_model(flat, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert load_error(write(path, flat_model)) == (
        f"the input 'x' of '{path}' has shape ['rows', 240], not (images, channels, height, width); use an image classifier"
    )
    model = make_model()
    model.graph.node[1].domain, model.graph.node[1].op_type = "my.operators", "MyRelu"
    model.opset_import.append(helper.make_opsetid("my.operators", 1))
    text = load_error(write(path, model))
    assert text.startswith(f"cannot load the ONNX model '{path}' (opset 17): [ONNXRuntimeError]")
    assert "my.operators:MyRelu" in text
    assert text.endswith("; use standard operators that onnxruntime supports")


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "a.onnx"
    assert load_error(f"onnx:{path}") == f"no such file: '{path}'; check --model"
    for content in (
        b"",
        b"\x00",
        b"PK\x03\x04" * 9,
        b"text of a file\n",
        bytes(range(256)),
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ):
        path.write_bytes(content)
        assert load_error(f"onnx:{path}") == f"'{path}' is not an ONNX model; export the model with torch.onnx.export"
    whole = make_model().SerializeToString()
    for length in range(1, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        assert load_error(f"onnx:{path}") == f"'{path}' is not an ONNX model; export the model with torch.onnx.export"
    name = write(path)
    assert load_error(name, weights="a.pt") == f"the model {name!r} includes its weights; remove --weights"


def test_copies_share_the_session(tmp_path):
    classifier = load(write(tmp_path / "a.onnx"))
    assert copy_classifier(classifier).model is classifier.model


def test_missing_onnxruntime_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    name = write(tmp_path / "a.onnx")
    assert load_error(name) == (
        f"the model {name!r} requires onnxruntime; install it with: pip install 'xplain-vision[onnx]'"
    )


def test_other_models_do_not_import_onnxruntime():
    code = "import sys, xplain; xplain.load_classifier; import xplain.cli.app; print('onnxruntime' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"


PHOTOGRAPH = SAMPLES / "cat.jpg"


def test_explain_and_evaluate_run_on_onnx(xp, tmp_path):
    model = (
        "-m",
        write(tmp_path / "a.onnx", end=("Softmax",)),
        "--device",
        "cpu",
        "--mean",
        "0.5,0.5,0.5",
        "--std",
        "0.5",
    )
    (tmp_path / "images").mkdir()
    shutil.copy(PHOTOGRAPH, tmp_path / "images")
    ran = xp("explain", PHOTOGRAPH, *model, "-a", "rise:masks=5", "-o", "out", "--json")
    assert ran.code == 0, ran.err
    assert ran.records[0]["preprocessing"]["mean"] == [0.5] * 3
    ran = xp("evaluate", "images", *model, "-a", "random", "-M", "deletion:steps=2", "-o", "run")
    assert ran.code == 0, ran.err
    for command in (("explain", PHOTOGRAPH), ("evaluate", "images"), ("compare", PHOTOGRAPH, "-a", "ig"), ("bench",)):
        ran = xp(*command, *model)
        assert (ran.code, "requires gradients, which onnx:" in ran.err) == (2, True)
    ran = xp("evaluate", "images", *model, "-a", "rise", "-M", "parameter-randomisation", "-o", "other")
    assert ran.code == 2
    assert "parameter-randomisation requires the layers of a PyTorch model, which onnx:" in ran.err


def test_bench_measures_forwards_only(xp, tmp_path, monkeypatch):
    monkeypatch.setattr("xplain.pipelines.model_benchmark.MIN_SECONDS", 0.01)
    model = ("-m", write(tmp_path / "a.onnx"), "--device", "cpu")
    ran = xp("bench", *model, "-a", "random", "-M", "deletion:steps=2", "--images", "2", "--repeats", "1", "--json")
    assert ran.code == 0, ran.err
    ceiling = next(record for record in ran.records if record["kind"] == "ceiling")
    assert list(ceiling["prepared"]) == list(ceiling["plain"]) == ["forwards"]
    run = next(record for record in ran.records if record.get("metric") == "deletion")
    assert run["gradient_rows_per_second"] is None
    assert run["efficiency"]["median"] > 0


def test_list_shows_what_fits(xp, tmp_path):
    name = write(tmp_path / "a.onnx")
    ran = xp("list", "methods", "-m", name, "--device", "cpu", "--json")
    fits = {record["name"] for record in ran.records if record["fits"] == "yes"}
    assert fits == {"random", "sobel", "center", "rise", "occlusion", "lime", "kernel-shap"}
    ran = xp("list", "layers", "-m", name, "--device", "cpu")
    assert (ran.code, "list layers requires the layers of a PyTorch model, which onnx:" in ran.err) == (2, True)
