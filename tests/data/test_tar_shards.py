"""Tar shards: which images they hold, which labels count, and that nothing in them is run or kept in memory."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tarfile
from pathlib import Path

import pytest

from tests.conftest import SAMPLES, TINY
from tests.helpers.factories import tiny
from xplain.core.errors import InputError, UsageError
from xplain.data.datasets import read_dataset
from xplain.models import load_classifier

pytest.importorskip("webdataset")


@pytest.fixture(scope="module")
def model():
    return load_classifier(tiny(), device="cpu")


def pack(path: Path, **members: bytes | str) -> Path:
    """A tar file; two underscores in a name stand for a dot."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def found(location: object, model) -> dict[str, int | None]:
    return {item.key: item.label for item in read_dataset(str(location), model.class_names)}


def test_a_shard_by_itself(tmp_path, model):
    pack(tmp_path / "a.tar", x__jpg=b"one", x__cls="2", y__PNG=b"two", y__cls="cat\n", z__txt="no image")
    items = read_dataset(str(tmp_path / "a.tar"), model.class_names)
    assert [(item.key, item.label) for item in items] == [("a.tar/x.jpg", 2), ("a.tar/y.png", 0)]
    assert [item.source.read() for item in items] == [b"one", b"two"]
    assert [item.source.name for item in items] == ["a.tar/x.jpg", "a.tar/y.png"]


def test_braces_and_folders_name_the_same_items(tmp_path, model):
    for i in range(3):
        pack(tmp_path / f"s-{i:04}.tar", k__jpg=b"%d" % i)
    whole = {f"s-{i:04}.tar/k.jpg": None for i in range(3)}
    assert found(tmp_path, model) == whole
    assert found(tmp_path / "s-{0000..0002}.tar", model) == whole
    assert found(tmp_path / "s-{0001..0002}.tar", model) == dict.fromkeys(list(whole)[1:])
    with pytest.raises(InputError, match=r"no shard '.*s-0003\.tar'; check the pattern"):
        found(tmp_path / "s-{0002..0003}.tar", model)


def test_a_folder_with_images_is_no_folder_of_shards(tmp_path, model):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_bytes(b"x")
    pack(tmp_path / "all.tar", k__jpg=b"x")
    assert found(tmp_path, model) == {"cat/a.jpg": 0}


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
def test_which_members_are_labels(tmp_path, model, members, label):
    pack(tmp_path / "a.tar", a__jpg=b"x", **members)
    assert found(tmp_path / "a.tar", model) == {"a.tar/a.jpg": label}


class Trap:
    """Unpickling this fails the test."""

    def __reduce__(self):
        return pytest.fail, ("code in the data was run",)


def test_no_code_in_the_data_is_run(tmp_path, model):
    trap = pickle.dumps(Trap())
    pack(tmp_path / "a.tar", a__jpg=b"x", a__pyd=trap, a__pkl=trap, a__pickle=trap, a__pth=trap, a__cls=trap[:0] + b"1")
    assert found(tmp_path / "a.tar", model) == {"a.tar/a.jpg": 1}
    with pytest.raises(InputError, match=r"no data set 'pipe:touch .*ran; echo .tar'"):
        found(f"pipe:touch {tmp_path}/ran; echo .tar", model)
    with pytest.raises(InputError, match="no shard"):
        found(f"pipe:touch {tmp_path}/ran; echo {{1..2}}.tar", model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"a__jpg": b"x", "a__cls": "9"}, r"the label of 'a\.tar/a\.jpg': class index 9 is not in 0 \.\. 4"),
        ({"a__jpg": b"x", "a__cls": "catt"}, r"the label of 'a\.tar/a\.jpg': unknown class 'catt'; did you mean 'cat'"),
        ({"a__txt": b"x"}, r"no image in '.*a\.tar' and 0 more shards; name members KEY\.jpg"),
        ({"a__jpg": b"x", "b__jpg": b"x", "a__JPG": b"x"}, r"'a\.tar/a\.jpg' is there twice"),
        ({"a__jpg": b"x", "a__JPG": b"x"}, r"cannot read the shard '.*a\.tar': a\.JPG: duplicate"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, model, members, text):
    with pytest.raises(InputError, match=text):
        found(pack(tmp_path / "a.tar", **members), model)


def test_what_is_no_tar_file_is_refused(tmp_path, model):
    (tmp_path / "a.tar").write_text("nonsense" * 200)
    with pytest.raises(InputError, match=r"cannot read the shard '.*a\.tar': .*; give whole, uncompressed files"):
        found(tmp_path / "a.tar", model)


def test_a_shard_that_was_cut_short_is_refused_before_the_run(tmp_path, model):
    content = pack(tmp_path / "a.tar", a__jpg=b"x" * 600, b__jpg=b"y" * 3000).read_bytes()
    items = read_dataset(str(tmp_path / "a.tar"), model.class_names)
    (tmp_path / "a.tar").write_bytes(content[: 512 + 1024 + 512 + 1000])
    assert items[0].source.read() == b"x" * 600
    with pytest.raises(InputError, match=r"'a\.tar/b\.jpg' ends after 1000 of 3000 bytes; restore the file"):
        items[1].source.read()
    with pytest.raises(InputError, match=r"a\.tar': unexpected end of data; give whole, uncompressed files"):
        found(tmp_path / "a.tar", model)


def test_without_the_library_one_line_says_how_to_get_it(tmp_path, model, monkeypatch):
    pack(tmp_path / "a.tar", a__jpg=b"x")
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UsageError, match=r"a\.tar' needs webdataset; pip install 'xplain-vision\[webdataset\]'"):
        found(tmp_path / "a.tar", model)


def test_images_are_read_one_at_a_time(tmp_path, model):
    for i in range(2):
        members = {f"k{j}__jpg": bytes(1000) for j in range(20)}
        pack(tmp_path / f"{i}.tar", **members)
    items = read_dataset(str(tmp_path), model.class_names)
    assert len(items) == 40
    assert all(item.source.content is None for item in items)


def test_a_run_over_shards_is_that_over_folders(xp, photos):
    photos_of = sorted(photos.glob("*/*.jpg"))
    members = {}
    for k, path in enumerate(photos_of):
        members |= {f"{k}__jpg": path.read_bytes(), f"{k}__cls": path.parent.name}
    Path("tars").mkdir()
    pack(Path("tars/s-0.tar"), **dict(list(members.items())[:4]))
    pack(Path("tars/s-1.tar"), **dict(list(members.items())[4:]))
    quick = (*TINY, "-M", "deletion:steps=4", "-a", "sm", "--json", "-b", "1")
    (folders,) = xp("evaluate", photos, *quick, "-o", "a").records
    for part in ("0/2", "1/2", "0/1"):
        ran = xp("evaluate", "tars/s-{0..1}.tar", *quick, "-o", "b", "--shard", part)
        assert ran.code == 0
    assert [row["mean"] for row in ran.records[0]["rows"]] == [row["mean"] for row in folders["rows"]]
    assert ran.records[0]["top1"] == folders["top1"]


def test_a_damaged_member_is_counted(xp, tmp_path):
    pack(tmp_path / "a.tar", a__jpg=(SAMPLES / "cat.jpg").read_bytes(), b__jpg=b"nonsense")
    ran = xp("evaluate", "a.tar", *TINY, "-M", "deletion:steps=4", "-a", "sm", "-o", "run")
    assert ran.code == 5
    assert "'a.tar/b.jpg' is not an image that Pillow knows" in ran.err
