"""Small ONNX files, and the PyTorch network that computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

SIDES = (8, 10)  # height and width of the images
CLASSES = 5
NUMPY_TYPES = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16}


def twin(channels: int = 3, classes: int = CLASSES) -> nn.Sequential:
    """Return the network of the files: convolution, ReLU, linear; the same in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        area = SIDES[0] * SIDES[1]
        net = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * area, classes))
    return net.eval()


def make_model(
    *,
    rows: int | str = "rows",
    sides: Sequence[int | str] = SIDES,
    channels: int = 3,
    classes: int = CLASSES,
    end: Sequence[str] = (),
    dtype: int = TensorProto.FLOAT,
    channels_last: bool = False,
    metadata: Mapping[str, str] = {},
    flat_rows: int = 0,
    opset: int = 17,
) -> ModelProto:
    """Return the graph of ``twin``.

    end: operators after the linear layer, such as ``("Softmax", "Identity")``. flat_rows: the number of rows that the graph reshapes to,
    whatever the declared one; 0 for any.
    """
    net = twin(channels, classes)
    weights = {name: value.detach().numpy().astype(NUMPY_TYPES[dtype]) for name, value in net.named_parameters()}
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([flat_rows or -1, 4 * SIDES[0] * SIDES[1]]), "flat"))
    first = "x"
    nodes = []
    if channels_last:
        nodes.append(helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]))
        first = "first"
    nodes += [
        helper.make_node("Conv", [first, "0.weight", "0.bias"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Reshape", ["relu", "flat"], ["flattened"]),
        helper.make_node("Gemm", ["flattened", "3.weight", "3.bias"], ["logits0"], transB=1),
    ]
    last = "logits0"
    for index, operator in enumerate(end):
        nodes.append(helper.make_node(operator, [last], [f"logits{index + 1}"]))
        last = f"logits{index + 1}"
    shape = [rows, *sides, channels] if channels_last else [rows, channels, *sides]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(last, dtype, None)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    helper.set_model_props(model, dict(metadata))
    return model


def write(path: Path, model: ModelProto | None = None, **options) -> str:
    """Write a model, or ``make_model(**options)``, and return its name for ``load_classifier``."""
    path.write_bytes((model or make_model(**options)).SerializeToString())
    return f"onnx:{path}"


def move_outside(model: ModelProto, location: str, index: int = 0) -> bytes:
    """Make an initializer external data at ``location`` and return its bytes."""
    tensor = model.graph.initializer[index]
    content = tensor.raw_data
    set_location(tensor, location, len(content))
    return content


def set_location(tensor: TensorProto, location: str, length: int) -> None:
    """Replace the values of a tensor by a reference to external data."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def images(count: int = 3, channels: int = 3) -> Tensor:
    """Return float32 images (count, channels, H, W) in [0, 1], the same in every call."""
    return torch.rand((count, channels, *SIDES), generator=torch.Generator().manual_seed(0))
