"""Which images a data set holds, and which class each belongs to."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers import toys
from tests.helpers.factories import imagenet_like
from xplain.core.errors import InputError, ModelNote
from xplain.data.datasets import match_folders_to_classes, read_dataset, select_items, select_shard
from xplain.models import Classifier, load_classifier


@pytest.fixture(scope="module")
def imagenet():
    return load_classifier(imagenet_like(), device="cpu")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def found(location, classifier, **options) -> dict[str, int | None]:
    return {item.key: item.label for item in read_dataset(str(location), classifier.class_names, **options)}


def test_a_subset_of_wnid_folders_maps_to_the_right_classes(tmp_path, imagenet):
    touch(tmp_path, "n02123159/a.JPEG", "n01440764/b.JPEG", "n07920052/c.jpg")
    assert found(tmp_path, imagenet) == {"n01440764/b.JPEG": 0, "n02123159/a.JPEG": 282, "n07920052/c.jpg": 967}


def test_folders_named_after_classes(tmp_path, imagenet):
    touch(tmp_path, "espresso/a.png", "tiger_cat/b.png")
    assert found(tmp_path, imagenet) == {"tiger_cat/b.png": 282, "espresso/a.png": 967}


def net(count: int, labels: Sequence[str] = ()) -> Classifier:
    """A model of so many classes, whose names are known or not."""
    model = toys.small_net(classes=count)
    model.size, model.labels = (8, 10), list(labels)
    return load_classifier(model, device="cpu")


def test_numbers_are_indices_in_the_order_of_numbers(tmp_path):
    """And it is said where sorting them as text, as ImageFolder does, gives others."""
    touch(tmp_path, "10/a.png", "2/b.png", "0/c.png")
    with pytest.warns(
        ModelNote, match=r"taken as class indices \('10' is class 10\); torchvision's ImageFolder sorts such"
    ):
        assert list(found(tmp_path, net(11)).items()) == [("0/c.png", 0), ("2/b.png", 2), ("10/a.png", 10)]


def test_numbers_that_sort_alike_are_indices_without_a_word(tmp_path):
    touch(tmp_path, "00/a.png", "02/b.png", "10/c.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelNote)
        assert found(tmp_path, net(11)) == {"00/a.png": 0, "02/b.png": 2, "10/c.png": 10}


@pytest.mark.parametrize("labels", [(), ("a", "b", "c")])
def test_numbers_that_are_no_index_of_the_model_are_refused(tmp_path, labels):
    touch(tmp_path, "1/a.png", "2/b.png", "3/c.png")  # counted from 1
    with pytest.raises(InputError) as error:
        found(tmp_path, net(3, labels))
    assert str(error.value) == (
        "the folder '3' is named after no class: class index 3 is not in 0 .. 2; "
        "give --classes with the folders' names in the order of the classes"
    )


def test_numbers_that_are_names_of_classes_are_those_classes(tmp_path):
    """As torchvision's ImageFolder sorts them; also one by one, for explain --target label."""
    model = net(3, ["1", "10", "2"])
    touch(tmp_path, "1/a.png", "2/b.png", "10/c.png")
    assert found(tmp_path, model) == {"1/a.png": 0, "10/c.png": 1, "2/b.png": 2}
    assert [model.class_names.find_folder(each) for each in ("1", "10", "2", "0")] == [0, 1, 2, 0]


def test_folders_of_a_nameless_model_count_in_sorted_order_and_it_is_said(tmp_path):
    touch(tmp_path, "b/1.png", "a/1.png", "c/1.png")
    said = "the classes of SmallNet have no names: the folders count in order, 'a' as class 0 to 'c' as class 2"
    with pytest.warns(ModelNote, match=f"^{said}$"):
        assert found(tmp_path, net(3)) == {"a/1.png": 0, "b/1.png": 1, "c/1.png": 2}


def test_wnid_folders_of_a_nameless_model_count_in_sorted_order_too(tmp_path):
    touch(tmp_path, "n02102040/1.png", "n01440764/1.png")
    with pytest.warns(ModelNote, match="'n01440764' as class 0 to 'n02102040' as class 1"):
        assert found(tmp_path, net(2)) == {"n01440764/1.png": 0, "n02102040/1.png": 1}
    with pytest.raises(InputError, match=r"the folders are wnids \(n01440764, \.\.\.\), which the model does not know"):
        found(tmp_path, net(3))
    with pytest.raises(InputError, match=r"the folders are wnids \(n01440764, \.\.\.\), which the model does not know"):
        found(tmp_path, net(2, ["tench", "springer"]))


@pytest.mark.parametrize("count", [2, 4])
def test_with_another_number_of_folders_than_of_classes_images_are_unlabelled_and_it_is_said(tmp_path, count):
    touch(tmp_path, "b/1.png", "a/1.png", "c/1.png")
    said = (
        f"SmallNet has {count} classes without names, and there are 3 class folders ('a', ...): the images count as "
        "unlabelled; --classes with a name for each class labels them"
    )
    with pytest.warns(ModelNote, match=re.escape(said)):
        items = read_dataset(str(tmp_path), net(count).class_names, None)
    assert [(item.key, item.label) for item in items] == [("a/1.png", None), ("b/1.png", None), ("c/1.png", None)]


def test_a_data_set_of_torchvisions_has_its_own_order(tmp_path):
    """FashionMNIST's names are not sorted."""
    names = ["T-shirt/top", "Trouser", "Pullover"]
    with pytest.warns(ModelNote, match="'T-shirt/top' as class 0 to 'Pullover' as class 2"):
        assert match_folders_to_classes(names, net(3).class_names) == {"T-shirt/top": 0, "Trouser": 1, "Pullover": 2}


def test_numbers_must_be_classes_of_the_model(tmp_path, imagenet):
    touch(tmp_path, "2/a.png", "1000/b.png")
    with pytest.raises(
        InputError, match=r"the folder '1000' is named after no class: class index 1000 is not in 0 .. 999"
    ):
        found(tmp_path, imagenet)


def test_a_flat_folder_has_no_labels_or_those_of_a_csv(tmp_path, imagenet):
    touch(tmp_path / "flat", "a.png", "b.png")
    assert found(tmp_path / "flat", imagenet) == {"a.png": None, "b.png": None}
    labels = tmp_path / "labels.csv"
    labels.write_text("file,class\na.png,n02123159\nb.png,967\n")
    assert found(tmp_path / "flat", imagenet, labels=str(labels)) == {"a.png": 282, "b.png": 967}


def test_a_list_names_paths_relative_to_itself(tmp_path, imagenet):
    touch(tmp_path, "x/a.png", "b.png")
    (tmp_path / "list.txt").write_text("x/a.png\tespresso\nb.png\n")
    items = read_dataset(str(tmp_path / "list.txt"), imagenet.class_names)
    assert [(item.key, item.label) for item in items] == [("x/a.png", 967), ("b.png", None)]
    assert all(item.source.path.is_file() for item in items)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (
            ["espreso/a.png"],
            "the folder 'espreso' is named after no class: unknown class 'espreso'; did you mean 'espresso'",
        ),
        (["n00000000/a.png"], "unknown class 'n00000000'"),
        (["a.txt"], "no image in the directory"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, imagenet, files, text):
    touch(tmp_path, *files)
    with pytest.raises(InputError, match=text):
        read_dataset(str(tmp_path), imagenet.class_names)


def test_a_line_of_a_list_that_names_no_file_is_refused(tmp_path, imagenet):
    touch(tmp_path, "a.png")
    (tmp_path / "list.txt").write_text("a.png\n\n/\n")
    with pytest.raises(InputError, match=r"line 3 of the list '.*list.txt' names no file; write one path a line"):
        read_dataset(str(tmp_path / "list.txt"), imagenet.class_names)


def test_labels_must_name_every_file(tmp_path, imagenet):
    touch(tmp_path / "flat", "a.png", "b.png")
    (tmp_path / "l.csv").write_text("a.png,1\n")
    with pytest.raises(InputError, match=r"has no label for 'b\.png' and 0 others"):
        read_dataset(str(tmp_path / "flat"), imagenet.class_names, str(tmp_path / "l.csv"))
    (tmp_path / "l.csv").write_text("a.png,1\nb.png,nonsense\n")
    with pytest.raises(InputError, match=r"line 2 .*unknown class 'nonsense'"):
        read_dataset(str(tmp_path / "flat"), imagenet.class_names, str(tmp_path / "l.csv"))


def test_limits_spread_over_the_set_and_shards_cover_it(tmp_path):
    touch(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(5)))
    items = read_dataset(str(tmp_path), net(2).class_names)
    assert [i.key for i in select_items(items, None, 1)] == ["a/0.png", "b/0.png"]
    assert [i.key for i in select_items(items, 4, None)] == ["a/0.png", "a/2.png", "b/0.png", "b/2.png"]
    assert [i.key for i in select_items(items, 3, 2)] == ["a/0.png", "a/1.png", "b/0.png"]
    parts = [select_shard(items, k, 3) for k in range(3)]
    assert sorted(i.key for part in parts for i in part) == [i.key for i in items]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
