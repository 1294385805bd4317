"""Tests of xplain.data.tar_shards, including that no code in a shard runs and that images are not kept in memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import sys
import tarfile
import warnings
from pathlib import Path

import pytest

from tests.conftest import SAMPLES, TINY
from tests.helpers.factories import tiny
from xplain.core.errors import InputError, ModelNote, UsageError
from xplain.data.datasets import read_dataset
from xplain.models import load_classifier

pytest.importorskip("webdataset")


@pytest.fixture(scope="module")
def model():
    return load_classifier(tiny(), device="cpu")


def write_tar(path: Path, **members: bytes | str) -> Path:
    """Write a tar file. Two underscores in a member name become a dot."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def read_labels(location: object, model) -> dict[str, int | None]:
    return {item.key: item.label for item in read_dataset(str(location), model.class_names)}


def test_read_single_shard(tmp_path, model):
    write_tar(tmp_path / "a.tar", x__jpg=b"one", x__cls="2", y__PNG=b"two", y__cls="cat\n", z__txt="no image")
    items = read_dataset(str(tmp_path / "a.tar"), model.class_names)
    assert [(item.key, item.label) for item in items] == [("a.tar/x.jpg", 2), ("a.tar/y.png", 0)]
    assert [item.source.read() for item in items] == [b"one", b"two"]
    assert [item.source.name for item in items] == ["a.tar/x.jpg", "a.tar/y.png"]


def test_brace_pattern_matches_folder(tmp_path, model):
    for i in range(3):
        write_tar(tmp_path / f"s-{i:04}.tar", k__jpg=b"%d" % i)
    whole = {f"s-{i:04}.tar/k.jpg": None for i in range(3)}
    assert read_labels(tmp_path, model) == whole
    assert read_labels(tmp_path / "s-{0000..0002}.tar", model) == whole
    assert read_labels(tmp_path / "s-{0001..0002}.tar", model) == dict.fromkeys(list(whole)[1:])
    with pytest.raises(InputError, match=r"shard '.*s-0003\.tar' not found; check the pattern"):
        read_labels(tmp_path / "s-{0002..0003}.tar", model)


def test_folder_with_images_ignores_tar(tmp_path, model):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_bytes(b"x")
    write_tar(tmp_path / "all.tar", k__jpg=b"x")
    assert read_labels(tmp_path, model) == {"cat/a.jpg": 0}


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ({"a__txt": "espresso"}, 1),
        ({"a__txt": "a cup of espresso on a table"}, None),
        ({"a__json": "3"}, 3),
        ({"a__json": json.dumps({"label": "rocket", "width": 32})}, 2),
        ({"a__json": json.dumps({"label": 1, "cls": 2})}, None),
        ({"a__json": "[1]", "a__txt": "cat"}, 0),
        ({"a__json": "true"}, None),
        ({"a__json": "[" * 100000}, None),
        ({"a__cls": "4", "a__txt": "cat"}, 4),
    ],
)
def test_label_members(tmp_path, model, members, label):
    write_tar(tmp_path / "a.tar", a__jpg=b"x", **members)
    assert read_labels(tmp_path / "a.tar", model) == {"a.tar/a.jpg": label}


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        ({"k__1__png": b"x", "k__1__cls": "1", "k__2__png": b"x", "k__2__cls": "2"}, {"k.1.png": 1, "k.2.png": 2}),
        ({"k__png": b"x", "k__cls": "0", "k__v2__png": b"x", "k__v2__cls": "2"}, {"k.png": 0, "k.v2.png": 2}),
        ({"v1__0/k__in__jpg": b"x", "v1__0/k__cls": "1"}, {"v1.0/k.in.jpg": 1}),
        ({"2021__01__05__jpg": b"x", "2021__01__06__jpg": b"x"}, {"2021.01.05.jpg": None, "2021.01.06.jpg": None}),
        ({"a__cls": "1", "b__json": '{"label": 2}', "b__jpg": b"x", "c__txt": "cat", "a__jpg": b"x", "c__jpg": b"x"},
         {"b.jpg": 2, "a.jpg": 1, "c.jpg": 0}),
        ({"k__txt": "cat", "k__png": b"x", "k__b__txt": "espresso", "k__b__png": b"x"}, {"k.png": 0, "k.b.png": 1}),
    ],
)  # fmt: skip
def test_labels_are_joined_by_key(tmp_path, model, members, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelNote)
        assert read_labels(write_tar(tmp_path / "a.tar", **members), model) == {
            f"a.tar/{name}": label for name, label in labels.items()
        }


@pytest.mark.parametrize(
    ("members", "labels", "note"),
    [
        ({"a__jpg": b"x", "a__png": b"x"}, {"a.jpg": None}, "images that are not read .*: 1, such as 'a.tar/a.png'"),
        ({"a__jpg": b"x", "a__mask__png": b"x", "a__cls": "1"}, {"a.jpg": 1}, "images that are not read .*: 1, such as 'a.tar/a.mask.png'"),
        ({"x/a__jpg": b"x", "x/.hid__jpg": b"x"}, {"x/a.jpg": None}, "images that are not read .*: 1, such as 'a.tar/x/.hid.jpg'"),
        ({"a__jpg": b"x", "b__cls": "1"}, {"a.jpg": None}, "labels without an image: 1, such as 'a.tar/b.cls'"),
        ({"a__jpg": b"x", "a__cls": "1", "b__jpg": b"x"}, {"a.jpg": 1, "b.jpg": None}, "1 of 2 images .* have no label"),
        ({"a__jpg": b"x", "a__cls": "1", "b__txt": b"", "a__CLS": "1"}, {"a.jpg": 1}, "repeat an equal label of the same name: 1"),
        ({"s__in__jpg": b"x", "s__out__jpg": b"x", "s__cls": "1"}, {"s.in.jpg": 1, "s.out.jpg": 1},
         "images that share the label of another image: 1, such as 'a.tar/s.out.jpg'"),
        ({"a__jpg": b"x", "b__jp2": b"x", "c__JPE": b"x"}, {"a.jpg": None},
         "2 files that look like images are not read .*; the first is 'a.tar/b.jp2'.*; convert them"),
    ],
)  # fmt: skip
def test_unused_members_are_counted(tmp_path, model, members, labels, note):
    with pytest.warns(ModelNote, match=note) as notes:
        assert read_labels(write_tar(tmp_path / "a.tar", **members), model) == {
            f"a.tar/{name}": label for name, label in labels.items()
        }
    assert len(notes) == 1


def test_shard_with_other_formats_only_is_refused(tmp_path, model):
    path = write_tar(tmp_path / "a.tar", a__tga=b"x", a__cls="1")
    with pytest.raises(
        InputError, match=r"no image in '.*a\.tar'.*1 \.tga.*'a\.tar/a\.tga'.*; convert them to PNG or JPEG"
    ):
        read_labels(path, model)


def test_linked_member_is_counted(tmp_path, model):
    path = write_tar(tmp_path / "a.tar", a__jpg=b"x", a__cls="1")
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(link)
    with pytest.warns(ModelNote, match="images that are not read .*: 1, such as 'a.tar/b.jpg'"):
        assert read_labels(path, model) == {"a.tar/a.jpg": 1}


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".tar.gz", gzip.compress),
        (".tgz", gzip.compress),
        (".TAR.BZ2", bz2.compress),
        (".tar.xz", lzma.compress),
        (".tar", gzip.compress),
    ],
)
def test_compressed_shards(tmp_path, model, suffix, compress):
    content = write_tar(tmp_path / "plain", a__jpg=b"one", a__cls="1", b__jpg=b"two", b__cls="2").read_bytes()
    path = tmp_path / f"s{suffix}"
    path.write_bytes(compress(content))
    for location in (path, tmp_path):
        items = read_dataset(str(location), model.class_names)
        assert [(item.key, item.label) for item in items] == [(f"s{suffix}/a.jpg", 1), (f"s{suffix}/b.jpg", 2)]
        assert [item.source.read() for item in reversed(items)] == [b"two", b"one"]
        assert all(item.source.content is None for item in items)
    path.write_bytes(compress(content)[:-9])
    with pytest.raises(InputError, match=r"cannot decompress '.*'"):
        read_dataset(str(path), model.class_names)


def test_compressed_copy_is_not_read(tmp_path, model):
    content = write_tar(tmp_path / "s.tar", a__jpg=b"x").read_bytes()
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(content))
    with pytest.warns(ModelNote, match=r"compressed copies of tar files that are not read: 1, such as 's\.tar\.gz'"):
        assert read_labels(tmp_path, model) == {"s.tar/a.jpg": None}


class Trap:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code in the data was run",)


def test_no_code_in_shard_runs(tmp_path, model):
    trap = pickle.dumps(Trap())
    write_tar(
        tmp_path / "a.tar", a__jpg=b"x", a__pyd=trap, a__pkl=trap, a__pickle=trap, a__pth=trap, a__cls=trap[:0] + b"1"
    )
    assert read_labels(tmp_path / "a.tar", model) == {"a.tar/a.jpg": 1}
    with pytest.raises(InputError, match=r"dataset 'pipe:touch .*ran; echo .tar' not found"):
        read_labels(f"pipe:touch {tmp_path}/ran; echo .tar", model)
    with pytest.raises(InputError, match=r"shard .* not found"):
        read_labels(f"pipe:touch {tmp_path}/ran; echo {{1..2}}.tar", model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"a__jpg": b"x", "a__cls": "9"}, r"invalid label of 'a\.tar/a\.jpg': class index 9 is out of range"),
        (
            {"a__jpg": b"x", "a__cls": "catt"},
            r"invalid label of 'a\.tar/a\.jpg': unknown class 'catt'; did you mean 'cat'",
        ),
        (
            {"a__txt": b"x"},
            r"no images found in the shards \(the first of 1 is '.*a\.tar'\); name the members KEY\.jpg",
        ),
        ({"a__jpg": b"x", "b__jpg": b"x", "a__JPG": b"x"}, r"two images are named 'a\.tar/a\.jpg'"),
        ({"a__jpg": b"x", "a__JPG": b"x"}, r"two images are named 'a\.tar/a\.jpg'"),
        (
            {"a__jpg": b"x", "a__cls": b"1", "b__jpg": b"x", "a__CLS": b"2"},
            r"two members of 'a\.tar' are named 'a\.CLS'",
        ),
    ],
)
def test_invalid_shard_raises(tmp_path, model, members, text):
    with pytest.raises(InputError, match=text):
        read_labels(write_tar(tmp_path / "a.tar", **members), model)


def test_file_that_is_not_tar_raises(tmp_path, model):
    (tmp_path / "a.tar").write_text("nonsense" * 200)
    with pytest.raises(InputError, match=r"cannot read the shard '.*a\.tar': .*; use complete, uncompressed tar files"):
        read_labels(tmp_path / "a.tar", model)


def test_truncated_shard_raises(tmp_path, model):
    content = write_tar(tmp_path / "a.tar", a__jpg=b"x" * 600, b__jpg=b"y" * 3000).read_bytes()
    items = read_dataset(str(tmp_path / "a.tar"), model.class_names)
    (tmp_path / "a.tar").write_bytes(content[: 512 + 1024 + 512 + 1000])
    assert items[0].source.read() == b"x" * 600
    with pytest.raises(InputError, match=r"'a\.tar/b\.jpg' is truncated \(1000 of 3000 bytes\); replace the file"):
        items[1].source.read()
    with pytest.raises(InputError, match=r"a\.tar': unexpected end of data; use complete, uncompressed tar files"):
        read_labels(tmp_path / "a.tar", model)


def test_missing_webdataset_raises(tmp_path, model, monkeypatch):
    write_tar(tmp_path / "a.tar", a__jpg=b"x")
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(
        UsageError, match=r"a\.tar' requires webdataset; install it with: pip install 'xplain-vision\[webdataset\]'"
    ):
        read_labels(tmp_path / "a.tar", model)


def test_images_are_not_kept_in_memory(tmp_path, model):
    for i in range(2):
        members = {f"k{j}__jpg": bytes(1000) for j in range(20)}
        write_tar(tmp_path / f"{i}.tar", **members)
    items = read_dataset(str(tmp_path), model.class_names)
    assert len(items) == 40
    assert all(item.source.content is None for item in items)


def test_evaluate_shards_matches_folders(xp, photos):
    paths = sorted(photos.glob("*/*.jpg"))
    members = {}
    for k, path in enumerate(paths):
        members |= {f"{k}__jpg": path.read_bytes(), f"{k}__cls": path.parent.name}
    Path("tars").mkdir()
    write_tar(Path("tars/s-0.tar"), **dict(list(members.items())[:4]))
    write_tar(Path("tars/s-1.tar"), **dict(list(members.items())[4:]))
    quick = (*TINY, "-M", "deletion:steps=4", "-a", "sm", "--json", "-b", "1")
    (folders,) = xp("evaluate", photos, *quick, "-o", "a").records
    for part in ("0/2", "1/2", "0/1"):
        ran = xp("evaluate", "tars/s-{0..1}.tar", *quick, "-o", "b", "--shard", part)
        assert ran.code == 0
    assert [row["mean"] for row in ran.records[0]["rows"]] == [row["mean"] for row in folders["rows"]]
    assert ran.records[0]["top1"] == folders["top1"]


def test_damaged_member_is_reported(xp, tmp_path):
    write_tar(tmp_path / "a.tar", a__jpg=(SAMPLES / "cat.jpg").read_bytes(), b__jpg=b"nonsense")
    ran = xp("evaluate", "a.tar", *TINY, "-M", "deletion:steps=4", "-a", "sm", "-o", "run")
    assert ran.code == 5
    assert "'a.tar/b.jpg' is not an image that Pillow can read" in ran.err
