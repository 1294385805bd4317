"""Tests of xplain.data.map_files."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from xplain.core.array_store import encode_arrays
from xplain.data.map_files import MapError, read_map, read_map_record

SIZE = (4, 6)
VALUES = np.arange(72.0).reshape(3, 4, 6) - 30


def npy(array: np.ndarray) -> bytes:
    """Return an array in NPY format."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    """Return arrays in NPZ format."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def read(content: bytes, name: str = "a.npy") -> np.ndarray:
    return read_map(io.BytesIO(content), name, SIZE).values


@pytest.mark.parametrize(
    "array",
    [
        VALUES,
        VALUES[0],
        VALUES[:1],
        np.asfortranarray(VALUES),
        VALUES.astype(">f4"),
        VALUES.astype(np.float16),
        VALUES.astype(np.int8),
        VALUES[0] > 3,
        VALUES[:, ::-1],
    ],
    ids=lambda array: f"{array.dtype.str}-{array.shape}",
)
def test_read_map_returns_channels_first(array):
    for content, name in ((npy(array), "a.npy"), (npz(heat=array), "a.NPZ")):
        values = read(content, name)
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, array if array.ndim == 3 else array[None])


@pytest.mark.parametrize("shape", [(6, 4), (4, 6, 3), (2, 4, 6), (1, 3, 4, 6), (24,), (), (3, 4, 7), (0, 4, 6)])
def test_read_map_rejects_other_shapes(shape):
    with pytest.raises(MapError, match="but the model's input is 4 x 6; write") as error:
        read(npy(np.zeros(shape)))
    assert error.value.reason == "the map has the wrong shape"


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (VALUES[0] * 1j, "holds values of type complex128"),
        (VALUES[0].astype(str), "holds values of type <U"),
        (VALUES[0].astype("datetime64[s]"), "holds values of type datetime64"),
        (np.zeros(SIZE, dtype=[("x", "f4")]), "holds values of type"),
        (VALUES[0].astype(object), "holds pickled Python objects, which are not loaded"),
    ],
)
def test_read_map_rejects_other_types(array, text):
    with pytest.raises(MapError, match=text) as error:
        read(npy(array))
    assert error.value.reason == "the map cannot be read"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_read_map_rejects_values_that_are_not_finite(value):
    with pytest.raises(MapError, match="NaN or infinite") as error:
        read(npy(np.where(VALUES == 5, value, VALUES)))
    assert error.value.reason == "the map is not finite"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "a.npy"),
        (npy(VALUES)[:-1], "a.npy"),
        (npy(VALUES)[:20], "a.npy"),
        (npz(heat=VALUES), "a.npy"),
        (npy(VALUES), "a.npz"),
        (npz(heat=VALUES)[:-30], "a.npz"),
        (pickle.dumps(VALUES), "a.npy"),
        (npz(), "a.npz"),
    ],
)
def test_read_map_names_damaged_file(content, name):
    with pytest.raises(MapError, match=f"'{name}'") as error:
        read(content, name)
    assert error.value.reason == "the map cannot be read"
    assert "\n" not in str(error.value)


class WritesFile:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_read_map_unpickles_nothing(tmp_path):
    objects = np.empty(SIZE, dtype=object)
    objects[...] = WritesFile(tmp_path / "touched")
    for content, name in ((npy(objects), "a.npy"), (npz(attribution=objects, record=objects), "a.npz")):
        with pytest.raises(MapError, match="pickled"):
            read(content, name)
    assert not list(tmp_path.iterdir())


def test_read_map_ignores_size_that_a_header_claims():
    """Reading 10^18 bytes would fail with another error."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (3, 10**9, 10**9 // 3)}
    )
    with pytest.raises(MapError, match="has the shape"):
        read(stream.getvalue())


def test_read_map_prefers_attribution_of_npz():
    content = npz(attribution=VALUES, image=VALUES + 1, other=VALUES + 2)
    np.testing.assert_array_equal(read(content, "a.npz"), VALUES)
    np.testing.assert_array_equal(read(npz(image=VALUES + 1, x=VALUES), "a.npz"), VALUES)
    with pytest.raises(MapError, match=r"'a.npz' holds 2 arrays \('x', 'y'\); name the map 'attribution'"):
        read(npz(x=VALUES, y=VALUES), "a.npz")


def test_read_map_returns_record_of_xplain(tmp_path):
    record = {"key": "ä.jpg", "target": {"index": 3}}
    path = tmp_path / "a.npz"
    path.write_bytes(encode_arrays({"attribution": VALUES}, record))
    with path.open("rb") as stream:
        assert read_map(stream, "a.npz", SIZE).record == record
    assert read_map_record(path) == record
    for other in (
        npz(attribution=VALUES, record=np.array("[1]")),
        npz(curve=VALUES, record=np.array(json.dumps(record))),
        b"x",
    ):
        path.write_bytes(other)
        assert read_map_record(path) == {}
