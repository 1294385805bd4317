"""Tests of xplain.data.matlab_files: it reads what SciPy writes, and damaged files raise ValueError."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from xplain.data.matlab_files import read_structures

VALUES = [1, 300, 70000, 2.5, -3, np.float32(0.25), np.uint16(65535), "n02119789", "ä", "", "x" * 300]


def save(variables: dict, **options: object) -> bytes:
    stream = io.BytesIO()
    savemat(stream, variables, **options)
    return stream.getvalue()


def make_structures(values: list, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
    entries = np.zeros(len(values), [("a", object), ("skipped", object), ("b", object)])
    for i, value in enumerate(values):
        entries[i] = (value, {"deep": [1, "x", {"y": np.ones((2, 3))}]}, i)
    return entries.reshape(shape)


@pytest.mark.parametrize("compressed", [False, True])
def test_read_structures_equals_scipy(compressed):
    content = save({"first": np.eye(3), "s": make_structures(VALUES), "z": "text"}, do_compression=compressed)
    entries = read_structures(content, "s", ("a", "b"))
    assert entries == [{"a": value, "b": i} for i, value in enumerate(VALUES)]
    assert all(
        type(entry["a"]) is type(value) for entry, value in zip(entries, VALUES, strict=True) if isinstance(value, str)
    )
    loaded = loadmat(io.BytesIO(content), squeeze_me=True)["s"]
    assert [str(value) for value in loaded["a"][:9]] == [str(entry["a"]) for entry in entries[:9]]


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (2, 2)])
def test_structures_are_read_in_order_of_columns(shape):
    structures = make_structures([10, 20, 30, 40], shape)
    expected = [entry[2] for entry in structures.ravel("F")]
    assert [entry["b"] for entry in read_structures(save({"s": structures}), "s", ("b",))] == expected


def test_values_of_other_types_are_none():
    values = [np.ones(3), np.zeros((0, 0)), {"x": 1}, ["two", "lines"], 1 + 2j, np.array([1, "x"], object)]
    entries = read_structures(save({"s": make_structures(values)}), "s", ("a",))
    assert [entry["a"] for entry in entries] == [None] * len(values)


@pytest.mark.parametrize(("variable", "fields"), [("t", ("a",)), ("s", ("a", "c")), ("number", ("a",))])
def test_missing_variable_or_field_is_none(variable, fields):
    assert read_structures(save({"s": make_structures([1]), "number": 3}), variable, fields) is None


def test_big_endian_file():
    """A file of two numbers, written by hand as the format's description says."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

    def matrix(matrix_class: int, name: bytes, *parts: bytes) -> bytes:
        head = element(6, struct.pack(">II", matrix_class, 0)) + element(5, struct.pack(">ii", 1, 1)) + element(1, name)
        return element(14, head + b"".join(parts))

    small = struct.pack(">HHi", 4, 5, 32)  # size, type and content of a small element: the length of the names
    number = matrix(6, b"", element(9, struct.pack(">d", 4.5)))
    text = matrix(4, b"", element(17, "nö".encode("utf-16-be")))
    names = element(1, b"a".ljust(32, b"\0") + b"bc".ljust(32, b"\0"))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(">H", 0x100) + b"MI"
    assert read_structures(header + matrix(2, b"s", small, names, number, text), "s", ("bc", "a")) == [
        {"a": 4.5, "bc": "nö"}
    ]


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncated_file_raises(compressed):
    content = save({"s": make_structures([1, "x"])}, do_compression=compressed)
    assert read_structures(content[:128], "s", ("a",)) is None  # the header only
    for size in range(len(content)):
        if size != 128:
            with pytest.raises(ValueError, match=r"^it is (truncated|damaged: |not a MATLAB file)"):
                read_structures(content[:size], "s", ("a",))
