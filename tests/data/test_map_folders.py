"""Tests of xplain.data.map_folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xplain.core.array_store import encode_arrays
from xplain.core.errors import InputError, ModelNote
from xplain.data.map_folders import find_maps


def write(folder: Path, *names: str) -> None:
    """Write maps without record."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save = np.savez if path.suffix.lower() == ".npz" else np.save
        with path.open("wb") as stream:
            save(stream, np.zeros((2, 2)))


def write_own(folder: Path, name: str, method: str, key: str | None = None) -> None:
    """Write a map as xplain does."""
    record = {"method": method} | ({"key": key} if key else {})
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_arrays({"attribution": np.zeros((1, 2, 2))}, record))


def find(folder: Path, *keys: str) -> dict[str, str]:
    """Return the files by key, relative to the folder."""
    found = find_maps(str(folder), keys, "random")
    return {key: path.relative_to(folder).as_posix() for key, path in found.items()}


@pytest.mark.parametrize(
    ("keys", "files"),
    [
        (["cat/a.jpg", "dog/a.jpg"], ["cat/a.npy", "dog/a.npy"]),
        (["cat/a.jpg", "dog/b.png"], ["a.npz", "b.npy"]),
        (["a.jpg", "a.png"], ["a.jpg.npy", "a.png.npy"]),
        (["x.1.jpg", "x.2.jpg"], ["x.1.npy", "x.2.npy"]),
        (["test/cat/a.jpg", "test/dog/a.jpg"], ["cat/a.npy", "dog/a.npy"]),
        (["/data/cat/a.jpg", "../dog/a.jpg"], ["cat/a.npy", "dog/a.npy"]),
        (["a.jpg", "cat/b.jpg"], ["a.npy", "cat/b.NPY"]),
    ],
)
def test_find_maps_by_name(tmp_path, keys, files):
    write(tmp_path, *files)
    assert find(tmp_path, *keys) == dict(zip(keys, files, strict=True))


@pytest.mark.parametrize(
    ("keys", "files", "text"),
    [
        (["cat/a.jpg", "dog/a.jpg"], ["a.npy"], "fits 'cat/a.jpg' and 'dog/a.jpg'"),
        (["cat/a.jpg", "dog/a.jpg"], ["cat/a.npy", "a.npy"], "fits 'cat/a.jpg' and 'dog/a.jpg'"),
        (["p/q/a.jpg", "r/a.jpg"], ["a.npy"], "fits 'p/q/a.jpg' and 'r/a.jpg'"),
        (["a.jpg", "a.png"], ["a.npy"], "fits 'a.jpg' and 'a.png'"),
        (["cat/a.jpg"], ["a.npy", "a.npz"], "holds 2 maps of 'cat/a.jpg'"),
        (["cat/a.jpg"], ["cat/a.npy", "cat/a.jpg.npy"], "holds 2 maps of 'cat/a.jpg'"),
        (["cat/a.jpg"], ["dog/a.npy", "b.npy"], r"is named after an image of the data set; name it '.*/cat/a.npy'"),
        (["cat/a.jpg"], ["a.png.npz.bak.npz"], "is named after an image"),
    ],
)
def test_find_maps_refuses_ambiguous_names(tmp_path, keys, files, text):
    write(tmp_path, *files)
    with pytest.raises(InputError, match=text) as error:
        find(tmp_path, *keys)
    assert "\n" not in str(error.value)


def test_find_maps_leaves_image_without_map(tmp_path):
    """A map of a whole key is never used for another image that ends like it."""
    write(tmp_path, "a.npy", "dog/b.npy")
    assert find(tmp_path, "a.jpg", "cat/a.jpg", "dog/b.jpg") == {"a.jpg": "a.npy", "dog/b.jpg": "dog/b.npy"}


def test_find_maps_notes_unused_files(tmp_path):
    write(tmp_path, "a.npy", "b.npy", "c/d.npz", ".hidden.npy", ".cache/x.npy")
    with pytest.warns(ModelNote, match=r"files in '.*' that belong to no image of the data set: 2, such as '.*b.npy'"):
        assert find(tmp_path, "a.jpg") == {"a.jpg": "a.npy"}


def test_find_maps_of_explain_and_evaluate(tmp_path):
    write_own(tmp_path, "cat/a.v2.saliency_absolute=true.raw.npz", "saliency")
    write_own(tmp_path, "dog/b.saliency.n02123045.raw.npz", "saliency")
    write_own(tmp_path, "cat-c-jpg.saliency.0123.npz", "saliency", key="cat/c.jpg")
    write_own(tmp_path, "cat-c-jpg.random.4567.npz", "random", key="cat/c.jpg")
    assert find(tmp_path, "cat/a.v2.jpg", "dog/b.jpg", "cat/c.jpg") == {
        "cat/a.v2.jpg": "cat/a.v2.saliency_absolute=true.raw.npz",
        "dog/b.jpg": "dog/b.saliency.n02123045.raw.npz",
        "cat/c.jpg": "cat-c-jpg.saliency.0123.npz",
    }
    write_own(tmp_path, "cat-c-jpg.agi.89ab.npz", "agi", key="cat/c.jpg")
    with pytest.raises(InputError, match=r"holds 2 maps of 'cat/c.jpg'"):
        find(tmp_path, "cat/c.jpg")


def test_find_maps_of_control_alone(tmp_path):
    write_own(tmp_path, "a.npz", "random", key="a.jpg")
    assert find(tmp_path, "a.jpg") == {"a.jpg": "a.npz"}


def test_find_maps_follows_links_once(tmp_path):
    write(tmp_path / "elsewhere", "a.npy")
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(folder)
    assert find(folder, "cat/a.jpg") == {"cat/a.jpg": "cat/a.npy"}


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_find_maps_needs_folder_with_maps(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=rf"no (folder of maps|map in) '.*{name}'"):
        find(tmp_path / name, "a.jpg")
