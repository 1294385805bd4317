"""Tests of xplain.data.ilsvrc_devkit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.helpers.devkit import write_meta
from xplain.core.errors import InputError
from xplain.data.ilsvrc_devkit import find_meta, read_meta

IDS = {3: "n02119789", 1: "n02100735", 1860: "n00001740"}


@pytest.mark.parametrize("wnids", [IDS, {7: "n02119789"}, {2.0: "n02119789", 300.0: "n02100735"}])
@pytest.mark.parametrize("compressed", [False, True])
def test_read_meta(tmp_path, wnids, compressed):
    write_meta(tmp_path / "meta.mat", wnids, do_compression=compressed)
    assert read_meta(tmp_path / "meta.mat", "2012") == wnids


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"",
            "cannot read '.*meta.mat': it is not a MATLAB file of version 5 to 7; use the file meta.mat of the development",
        ),
        (
            b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\0\2IM",
            "cannot read '.*meta.mat': it is a MATLAB file of version 7.3",
        ),
        (
            b"MATLAB 5.0 MAT-file" + b" " * 105 + b"\0\1IM\x0e\0\0\0\x09\0\0\0",
            "cannot read '.*meta.mat': it is truncated",
        ),
        ({"x": 1}, "does not list classes with ILSVRC2012_ID and WNID; use the file meta.mat of the development kit"),
        ({"synsets": [1, 2]}, "does not list classes"),
        ({"synsets": {"WNID": "n02119789"}}, "does not list classes"),
        ({"synsets": {"WNID": "cat", "ILSVRC2012_ID": 1}}, "has an invalid or repeated class: 1, 'cat'"),
        ({"synsets": {"WNID": "n02119789", "ILSVRC2012_ID": 0}}, "has an invalid or repeated class: 0, 'n02119789'"),
        ({"synsets": {"WNID": "n02119789", "ILSVRC2012_ID": [1, 2]}}, "has an invalid or repeated class: None, 'n0"),
        (
            {"synsets": {"WNID": "n02119789", "ILSVRC2012_ID": 1.5}},
            "has an invalid or repeated class: 1.5, 'n02119789'",
        ),
        ({"synsets": {"WNID": "n02119789", "ILSVRC2012_ID": np.inf}}, "has an invalid or repeated class: inf, "),
        ({"synsets": [{"WNID": "n02119789", "ILSVRC2012_ID": 1}] * 2}, "does not list classes"),
    ],
)
def test_invalid_meta_raises(tmp_path, content, message):
    path = tmp_path / "meta.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    with pytest.raises(InputError, match=message) as error:
        read_meta(path, "2012")
    assert "\n" not in str(error.value)


def test_repeated_number_raises(tmp_path):
    synsets = np.zeros(2, [("ILSVRC2012_ID", object), ("WNID", object)])
    synsets[:] = [(5, "n02119789"), (5, "n02100735")]
    savemat(tmp_path / "meta.mat", {"synsets": synsets})
    with pytest.raises(InputError, match="has an invalid or repeated class: 5, 'n02100735'"):
        read_meta(tmp_path / "meta.mat", "2012")


def test_nearest_meta_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/b", "a/data", "kit/data"):
        Path(name).mkdir(parents=True)
    assert find_meta(Path("a/b/list.txt")) is None
    for name in ("meta.mat", "a/data/meta.mat", "a/b/meta.mat"):  # from far to near
        Path(name).write_bytes(b"")
        assert find_meta(Path("a/b/list.txt")) == tmp_path / name
    Path("kit/data/list.txt").write_text("1")
    Path("kit/data/meta.mat").write_text("1")
    Path("linked.txt").symlink_to("kit/data/list.txt")
    Path("meta.mat").unlink()
    assert find_meta(Path("linked.txt")) == tmp_path / "kit/data/meta.mat"  # next to the file that the link leads to
