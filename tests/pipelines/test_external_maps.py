"""Tests of xplain.pipelines.external_maps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xplain.core.array_store import encode_arrays
from xplain.core.config import MapFolder
from xplain.core.errors import InputError, UsageError
from xplain.data.datasets import Item
from xplain.models.classifier import Weights
from xplain.pipelines.batches import TargetedBatch
from xplain.pipelines.external_maps import ExternalMaps, check_map_names

KEYS = ("a.jpg", "b.jpg", "c.jpg")
CLASSIFIER = SimpleNamespace(size=(2, 3), input_channels=3, weights=Weights("net", "aa"))
VALUES = np.arange(6, dtype=np.float64).reshape(2, 3)


def make_batch(dtype: torch.dtype = torch.float32) -> TargetedBatch:
    """Return three images that are explained for the classes 0, 1 and 2."""
    items = [Item(key, None, None) for key in KEYS]
    loaded = [SimpleNamespace(digest=f"image {key}", size=(2, 3)) for key in KEYS]
    return TargetedBatch(items, loaded, torch.zeros(3, 3, 2, 3, dtype=dtype), torch.zeros(3, 5), torch.arange(3), None)


def load(folder, batch=None):
    maps = ExternalMaps.find(MapFolder("other", str(folder)), KEYS)
    return maps.load(batch or make_batch(), CLASSIFIER)


def save_own(path, record: dict) -> None:
    path.write_bytes(encode_arrays({"attribution": VALUES[None]}, record))


def test_parse_map_folder():
    assert MapFolder.parse(" my-ig.2 = a=b/c ") == MapFolder("my-ig.2", "a=b/c")
    assert "~" not in MapFolder.parse("x=~/maps").folder
    for text in ("", "x", "x=", "=x", "a b=x", "a:steps=2", "a|b=x", "-a=x", "a\nb=x"):
        with pytest.raises(UsageError, match="--maps"):
            MapFolder.parse(text)


@pytest.mark.parametrize("names", [("ig",), ("RISE",), ("x", "integrated-gradients"), ("random",), ("x", "x")])
def test_check_map_names_refuses_taken_names(names):
    with pytest.raises(UsageError, match=r"is the name of a method|is specified more than once"):
        check_map_names([MapFolder(name, "maps") for name in names])


def test_load_groups_maps_by_channels(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    np.save(tmp_path / "b.npy", np.stack([VALUES] * 3))
    np.save(tmp_path / "c.npy", VALUES[None] + 1)
    errors, groups = load(tmp_path)
    assert errors == {}
    assert [(index, tuple(result.values.shape), result.target.tolist()) for index, result in groups] == [
        ([0, 2], (2, 1, 2, 3), [0, 2]),
        ([1], (1, 3, 2, 3), [1]),
    ]
    assert groups[0][1].values[1, 0].tolist() == (VALUES + 1).tolist()
    assert groups[0][1].values.dtype == torch.float32


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"sha256": "image b.jpg"}, "the map is of another image"),
        ({"target": {"index": 4}}, "the map explains another class"),
        ({"model": {"name": "net", "weights": {"sha256": "bb"}}}, "the map explains another model"),
    ],
)
def test_load_counts_map_of_something_else(tmp_path, record, reason):
    save_own(tmp_path / "a.npz", record)
    np.save(tmp_path / "b.npy", VALUES)
    errors, groups = load(tmp_path)
    assert {i: error.reason for i, error in errors.items()} == {0: reason, 2: "no map"}
    assert "a.npz" in str(errors[0])
    assert "'c.jpg'" in str(errors[2])
    assert [index for index, _ in groups] == [[1]]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"sha256": "image a.jpg", "target": {"index": 0}, "model": {"weights": {"sha256": "aa"}}},
        {"sha256": None, "target": None, "model": "net"},
        {"target": [0], "model": {"weights": None}},
    ],
)
def test_load_accepts_matching_or_unknown_record(tmp_path, record):
    save_own(tmp_path / "a.npz", record)
    assert 0 not in load(tmp_path)[0]


@pytest.mark.parametrize("scale", [1e300, 1e-60])
def test_load_counts_values_outside_float32(tmp_path, scale):
    np.save(tmp_path / "a.npy", VALUES * scale)
    assert load(tmp_path)[0][0].reason == "the map is out of range"
    assert 0 not in load(tmp_path, make_batch(torch.float64))[0]


def test_load_refuses_map_that_changed_since(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    maps = ExternalMaps.find(MapFolder("other", str(tmp_path)), KEYS)
    np.save(tmp_path / "a.npy", VALUES + 1)
    with pytest.raises(InputError, match=r"a.npy' changed during the run"):
        maps.load(make_batch(), CLASSIFIER)
    (tmp_path / "a.npy").unlink()
    assert maps.load(make_batch(), CLASSIFIER)[0][0].reason == "the map cannot be read"


def test_describe_depends_on_content_only(tmp_path):
    def describe(name: str, folder: str) -> dict:
        return ExternalMaps.find(MapFolder(name, str(tmp_path / folder)), KEYS).describe()

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "one" / "a.npy", VALUES)
    np.save(tmp_path / "two" / "a.jpg.npy", VALUES)
    assert describe("x", "one") == describe("x", "two") != describe("y", "one")
    np.save(tmp_path / "two" / "b.npy", VALUES)
    assert describe("x", "one") != describe("x", "two")
