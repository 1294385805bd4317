"""Looking up classes by name, and reading class names from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError
from xplain.core.option_words import option_names
from xplain.data.class_names import ClassNames, load_imagenet_classes, read_class_names


def named(labels, wnids=()) -> xplain.Classifier:
    return toys.classifier(toys.small_net(classes=len(labels)), labels=labels, wnids=wnids)


@pytest.fixture(scope="module")
def imagenet() -> xplain.Classifier:
    wnids, labels = load_imagenet_classes()
    return toys.classifier(nn.Flatten(), labels=labels, wnids=wnids)


def refused(call, *arguments) -> str:
    with pytest.raises(UsageError) as error:
        call(*arguments)
    assert error.value.exit_code == 2
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("0", 0),
        ("999", 999),
        ("n02099601", 207),
        ("N02099601", 207),
        ("golden retriever", 207),
        ("Golden Retriever", 207),
        ("golden_retriever", 207),
        ("GOLDEN_RETRIEVER", 207),
        ("crane", 517),
        ("crane bird", 134),
        ("maillot", 638),
        ("maillot tank suit", 639),
        ("Cardigan", 264),
        ("cardigan", 474),
    ],
)
def test_find_accepts_index_wnid_name(imagenet, text, index):
    assert imagenet.class_names.find(text) == index


def test_find_returns_every_class(imagenet):
    assert [imagenet.class_names.find(name) for name in imagenet.labels] == list(range(1000))
    assert [imagenet.class_names.find(wnid) for wnid in imagenet.wnids] == list(range(1000))


@pytest.mark.parametrize(
    ("text", "index"), [("great white shark", 0), ("Great_White_Shark", 0), ("great_white_shark", 0), ("b", 1)]
)
def test_find_ignores_underscores(text, index):
    assert named(["great_white_shark", "B"]).class_names.find(text) == index


def test_find_rejects_duplicate_name():
    text = refused(named(["crane", "dog", "crane"], ["n1", "n2", "n3"]).class_names.find, "crane")
    assert text == "class name 'crane' is ambiguous: classes 0 and 2 have it; use the index or the wnid"


def test_find_rejects_ambiguous_case(imagenet):
    model = named(["Cardigan", "cardigan"])
    assert [model.class_names.find(each) for each in ("Cardigan", "cardigan")] == [0, 1]
    assert refused(model.class_names.find, "CARDIGAN").startswith(
        "class name 'CARDIGAN' is ambiguous: classes 0 and 1 have it"
    )
    assert refused(imagenet.class_names.find, "CARDIGAN").startswith(
        "class name 'CARDIGAN' is ambiguous: classes 264 and 474 have it"
    )


@pytest.mark.parametrize(
    ("text", "near"), [("golden retreiver", "'golden retriever'"), ("Tenchh", "'tench'"), ("n02099602", "'n02099601'")]
)
def test_find_suggests_near_classes(imagenet, text, near):
    found = refused(imagenet.class_names.find, text)
    assert found.startswith(f"unknown class {text!r}; did you mean ")
    assert near in found


def test_find_without_near_classes(imagenet):
    text = refused(imagenet.class_names.find, "qqqqqq")
    assert text == f"unknown class 'qqqqqq'; see xplain list classes -m {imagenet.name}"
    with option_names(False):
        assert refused(imagenet.class_names.find, "qqqqqq") == "unknown class 'qqqqqq'; see classifier.labels"
    assert refused(imagenet.class_names.find, "").startswith("unknown class ''")


def test_find_lists_few_classes_of_an_own_model():
    few, many = list("abcdefghij"), list("abcdefghijk")
    assert refused(ClassNames(few).find, "zebra") == "unknown class 'zebra'; classes are a, b, c, d, e, f, g, h, i, j"
    text = refused(ClassNames().find, "zebra")
    assert text == "unknown class 'zebra'; use an index, or name the classes with --classes FILE"
    text = refused(ClassNames(many, model="python:my net:make").find, "zebra")
    assert text == "unknown class 'zebra'; see xplain list classes -m 'python:my net:make'"


@pytest.mark.parametrize("text", ["1000", "-1", "99999"])
def test_find_index_out_of_range(imagenet, text):
    assert refused(imagenet.class_names.find, text) == f"class index {text} is out of range; use an index from 0 to 999"


def test_describe_returns_known_entries():
    assert named(["a", "b"], ["n1", "n2"]).class_names.describe(1) == {"index": 1, "wnid": "n2", "name": "b"}
    assert named(["a", "b"]).class_names.describe(1) == {"index": 1, "wnid": None, "name": "b"}
    assert toys.classifier(toys.small_net()).class_names.describe(3) == {"index": 3, "wnid": None, "name": None}


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "wnids", "names"),
    [
        ("cat\n dog \n\nold bird\n", (), ("cat", "dog", "old bird")),
        ("a, the first\nb, the second\n", (), ("a, the first", "b, the second")),
        ("index,wnid,name\n1,n2,dog\n0,n1,cat\n", ("n1", "n2"), ("cat", "dog")),
        ("index\tname\n0\tcat\n1\tdog\n", (), ("cat", "dog")),
        ('\ufeffIndex,Name\r\n0,"cat, big"\r\n1,dog\r\n', (), ("cat, big", "dog")),
    ],
)
def test_read_classes_lines_and_columns(tmp_path, text, wnids, names):
    assert read_class_names(written(tmp_path, text)) == (wnids, names)


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "index,name\n0,cat\n2,dog\n", "index,name\nx,cat\n", "index,wnid,name\n0,n1\n", b"\xff\xfe\x00"],
)
def test_read_classes_invalid_file(tmp_path, text):
    with pytest.raises(InputError, match=r"classes\.txt") as error:
        read_class_names(written(tmp_path, text))
    assert error.value.exit_code == 3


def test_read_classes_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt"):
        read_class_names(tmp_path / "gone.txt")
