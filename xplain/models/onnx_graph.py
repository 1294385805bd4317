"""Read facts about an ONNX file from its protocol buffer, without loading the weights.

onnxruntime reports neither the operators of a graph nor its external data files. The wire format is that of protocol buffers; the
numbers of the fields are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xplain.core.errors import InputError

MODEL_GRAPH, MODEL_OPSETS, MODEL_FUNCTIONS = 7, 8, 25
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODES, GRAPH_INITIALIZERS, GRAPH_SPARSE_INITIALIZERS = 1, 5, 15
FUNCTION_NODES = 7
NODE_INPUTS, NODE_OUTPUTS, NODE_OPERATOR, NODE_ATTRIBUTES = 1, 2, 4, 5
ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)
SPARSE_TENSORS = (1, 2)  # values and indices
TENSOR_EXTERNAL_DATA = 13
ENTRY_KEY, ENTRY_VALUE = 1, 2

# Operators that change the shape or the type of their first input only.
SHAPE_OPERATORS = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout"}


@dataclass(frozen=True)
class OnnxGraph:
    """Facts about an ONNX file.

    opset: the version of the standard operators. external_files: the locations of its external data, relative to its folder.
    producers: by tensor, the operator that makes it and the operator's first input.
    """

    opset: int
    external_files: tuple[str, ...]
    producers: dict[str, tuple[str, str]]

    def last_operator(self, output: str) -> str:
        """Return the operator that makes the values of an output, before changes of its shape or type; "" if there is none."""
        seen: set[str] = set()
        while output in self.producers and output not in seen:
            seen.add(output)
            operator, source = self.producers[output]
            if operator not in SHAPE_OPERATORS:
                return operator
            output = source
        return ""


def read_onnx_graph(path: Path) -> OnnxGraph:
    """Read the facts about an ONNX file. Raises InputError if it is missing or is not one."""
    if not path.is_file():
        raise InputError(f"no such file: {str(path)!r}", "check --model")
    try:
        graph = _read_model(np.memmap(path, np.uint8, "r").data)
    except (ValueError, RecursionError):  # also of an empty file, which cannot be mapped
        graph = None
    if graph is None:
        raise InputError(f"{str(path)!r} is not an ONNX model", "export the model with torch.onnx.export")
    return graph


def _read_model(content: memoryview) -> OnnxGraph | None:
    """Return the facts about a ModelProto, or None if it has no graph."""
    opset, graph, locations = 0, None, list[str]()
    producers: dict[str, tuple[str, str]] = {}
    for number, value in _read_fields(content):
        if number == MODEL_GRAPH and isinstance(value, memoryview):
            graph = value
            locations += _find_locations(value)
            producers |= _read_producers(value)
        elif number == MODEL_FUNCTIONS and isinstance(value, memoryview):
            for function_number, node in _read_messages(value):
                if function_number == FUNCTION_NODES:
                    locations += _find_node_locations(node)
        elif number == MODEL_OPSETS and isinstance(value, memoryview):
            fields = dict(_read_fields(value))
            version = fields.get(OPSET_VERSION)
            if not fields.get(OPSET_DOMAIN) and isinstance(version, int):
                opset = version
    return None if graph is None else OnnxGraph(opset, tuple(sorted(set(locations))), producers)


def _read_producers(graph: memoryview) -> dict[str, tuple[str, str]]:
    """Return by tensor the operator of a GraphProto that makes it, and the operator's first input."""
    producers: dict[str, tuple[str, str]] = {}
    for number, node in _read_messages(graph):
        if number != GRAPH_NODES:
            continue
        operator, inputs, outputs = "", list[str](), list[str]()
        for field, value in _read_messages(node):
            if field == NODE_OPERATOR:
                operator = _to_text(value)
            elif field == NODE_INPUTS:
                inputs.append(_to_text(value))
            elif field == NODE_OUTPUTS:
                outputs.append(_to_text(value))
        for output in outputs:
            producers[output] = (operator, inputs[0] if inputs else "")
    return producers


def _find_locations(graph: memoryview) -> Iterator[str]:
    """Yield the locations of the external data of a GraphProto and of the graphs in it."""
    for number, value in _read_messages(graph):
        if number == GRAPH_NODES:
            yield from _find_node_locations(value)
        elif number == GRAPH_INITIALIZERS:
            yield from _find_tensor_locations(value)
        elif number == GRAPH_SPARSE_INITIALIZERS:
            yield from _find_sparse_locations(value)


def _find_node_locations(node: memoryview) -> Iterator[str]:
    """Yield the locations of the external data in the attributes of a NodeProto."""
    for number, attribute in _read_messages(node):
        if number != NODE_ATTRIBUTES:
            continue
        for field, value in _read_messages(attribute):
            if field in ATTRIBUTE_TENSORS:
                yield from _find_tensor_locations(value)
            elif field in ATTRIBUTE_GRAPHS:
                yield from _find_locations(value)
            elif field in ATTRIBUTE_SPARSE_TENSORS:
                yield from _find_sparse_locations(value)


def _find_sparse_locations(sparse: memoryview) -> Iterator[str]:
    for number, tensor in _read_messages(sparse):
        if number in SPARSE_TENSORS:
            yield from _find_tensor_locations(tensor)


def _find_tensor_locations(tensor: memoryview) -> Iterator[str]:
    """Yield the location of the external data of a TensorProto, if it has one."""
    for number, entry in _read_messages(tensor):
        if number == TENSOR_EXTERNAL_DATA:
            fields = {field: _to_text(value) for field, value in _read_messages(entry)}
            if fields.get(ENTRY_KEY) == "location":
                yield fields.get(ENTRY_VALUE, "")


def _to_text(value: memoryview) -> str:
    return bytes(value).decode("utf-8")


def _read_messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and bytes of the fields of a message that are messages, texts or packed numbers."""
    for number, value in _read_fields(message):
        if isinstance(value, memoryview):
            yield number, value


def _read_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field of a message. Raises ValueError if the bytes are not a message."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(wire_type)
        if wire_type == 2:
            length, position = _read_varint(message, position)
        if length is None or number == 0 or position + length > len(message):
            raise ValueError("not a protocol buffer")
        yield number, message[position : position + length]
        position += length


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number of variable length, and the position behind it."""
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("not a protocol buffer")
