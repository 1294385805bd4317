"""Masks of COCO files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data.test_mask_shapes import compress
from tests.helpers.mask_files import find, locate, write_coco
from xplain.core.errors import InputError, ModelNote
from xplain.data.preprocessing import Preprocessing

SQUARE = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
FILLED = np.zeros((6, 8))
FILLED[1:4, 2:6] = 1
COUNTS = [2 * 6 + 1, 3, 3, 3, 3, 3, 3, 3, 2 + 12]  # of FILLED, column by column


@pytest.mark.parametrize(
    "shape",
    [
        SQUARE,
        {"bbox": [2, 1, 4, 3]},
        {"bbox": [2, 1, 4, 3], "segmentation": []},
        {"segmentation": [[2, 1, 4, 1, 4, 4, 2, 4], [3, 1, 6, 1, 6, 4, 3, 4]]},
        {"segmentation": {"counts": COUNTS, "size": [6, 8]}},
        {"segmentation": {"counts": compress(COUNTS), "size": [6, 8]}},
    ],
    ids=["polygon", "box", "box of empty segmentation", "overlapping polygons", "run lengths", "compressed"],
)
def test_shapes_of_known_area(tmp_path, shape):
    write_coco(tmp_path / "c.json", [shape])
    masks = find(tmp_path / "c.json")
    assert (locate(masks, 0) == FILLED).all()
    assert locate(masks, 1) is None


def test_objects_of_a_class_are_united_and_crowds_ignored(tmp_path):
    crowd = {"segmentation": {"counts": [0, 12, 36], "size": [6, 8]}, "iscrowd": 1, "category_id": 2}
    write_coco(tmp_path / "c.json", [SQUARE, {"bbox": [1, 0, 2, 2]}, {"bbox": [7, 5, 1, 1], "category_id": 2}, crowd])
    masks = find(tmp_path / "c.json")
    expected = FILLED.copy()
    expected[:, :2] = np.nan
    expected[0:2, 1:3] = 1  # an object in a crowd counts
    np.testing.assert_array_equal(locate(masks, 0), expected)
    assert np.nansum(locate(masks, 1)) == 1
    write_coco(tmp_path / "d.json", [crowd, SQUARE])
    assert locate(find(tmp_path / "d.json"), 1) is None  # only a crowd of dogs


def test_polygon_through_resize_and_crop(tmp_path):
    """A square of 100 x 60 of 512 x 512 pixels; |S| after 256 to 224 is exact."""
    polygon = {"segmentation": [[10, 20, 70, 20, 70, 120, 10, 120]]}
    write_coco(tmp_path / "c.json", [polygon], [{"id": 7, "file_name": "a.jpg", "height": 512, "width": 512}])
    found = locate(find(tmp_path / "c.json"), size=(512, 512), preprocessing=Preprocessing((224, 224), 256))
    assert found.sum() == (60 - 16) * (35 - 16)


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_shapes_are_turned_with_the_image(tmp_path, orientation):
    write_coco(tmp_path / "c.json", [SQUARE])
    preprocessing = Preprocessing((6, 8), (6, 8)) if orientation == 1 else Preprocessing((8, 6), (8, 6))
    size = (6, 8) if orientation == 1 else (8, 6)
    found = locate(find(tmp_path / "c.json"), size=size, orientation=orientation, preprocessing=preprocessing)
    assert (found == np.rot90(FILLED, {1: 0, 6: -1, 8: 1}[orientation])).all()


def test_size_may_be_omitted(tmp_path):
    write_coco(tmp_path / "c.json", [SQUARE], [{"id": 7, "file_name": "a.jpg"}])
    assert (locate(find(tmp_path / "c.json")) == FILLED).all()


@pytest.mark.parametrize(
    ("name", "keys", "match"),
    [
        ("val2017/a.jpg", ("a.jpg",), "a.jpg"),
        ("val2017/a.jpg", ("cat/a.png",), "cat/a.png"),
        ("x/a.jpg", ("y/a.jpg", "x/a.jpg"), "x/a.jpg"),
        ("a.b.jpg", ("a.b.jpg", "a.jpg"), "a.b.jpg"),
        ("b\\a.jpg", ("b/a.jpg",), "b/a.jpg"),
    ],
)
def test_images_are_found_by_name(tmp_path, name, keys, match):
    write_coco(tmp_path / "c.json", [SQUARE], [{"id": 7, "file_name": name, "height": 6, "width": 8}])
    assert list(find(tmp_path / "c.json", *keys).entries) == [match]


def test_two_images_of_one_name_are_refused(tmp_path):
    images = [{"id": 7, "file_name": "x/a.jpg"}, {"id": 8, "file_name": "y/a.jpg"}]
    path = tmp_path / "c.json"
    write_coco(path, [SQUARE, SQUARE | {"image_id": 8}], images)
    with pytest.raises(InputError) as error:
        find(path)
    assert str(error.value) == (
        f"image 0 of {str(path)!r} and image 1 of {str(path)!r} are both masks of 'a.jpg'; keep one mask per image"
    )
    with pytest.raises(
        InputError, match=r"the mask image 0 of '.*' fits 'p/a.jpg' and 'q/a.jpg'; name each mask after the whole path"
    ):
        find(path, "p/a.jpg", "q/a.jpg")


def test_annotations_of_unlisted_images_are_noted(tmp_path):
    write_coco(tmp_path / "c.json", [SQUARE, SQUARE | {"image_id": 9}])
    with pytest.warns(ModelNote, match=r"^1 of the annotations in '.*c\.json' belong to images that it does not list$"):
        find(tmp_path / "c.json")


def test_categories_that_occur_must_be_classes(tmp_path):
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "zebra"}]
    write_coco(tmp_path / "c.json", [SQUARE], categories=categories)
    find(tmp_path / "c.json")  # no zebra occurs
    write_coco(tmp_path / "c.json", [SQUARE, SQUARE | {"category_id": 2}], categories=categories)
    with pytest.raises(
        InputError, match=r"the category 'zebra' of '.*c\.json' is no class of the model; map categories to classes"
    ):
        find(tmp_path / "c.json")
    (tmp_path / "t.csv").write_text("cat,dog\n")
    masks = find(tmp_path / "c.json", categories=str(tmp_path / "t.csv"))
    assert (locate(masks, 1) == FILLED).all()
    assert locate(masks, 0) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"segmentation": [[0, 0, 1, 1]]},
            "annotation 0 of FILE is damaged: a polygon needs x and y of at least 3 points",
        ),
        ({"segmentation": [[0, 0, 1, 1, 2, True]]}, "is damaged: a shape is no list of numbers"),
        ({"segmentation": "text"}, "is damaged: its segmentation is neither polygons nor run lengths"),
        ({"segmentation": [[0, 0, 1e400, 1, 2, 2]]}, "is damaged: a coordinate is not finite"),
        (
            {"segmentation": [[0.1, 0.1, 0.9, 0.1, 0.5, 1]]},
            "is damaged: its coordinates are fractions of the image, from 0 to 1",
        ),
        ({"segmentation": {"counts": [47], "size": [6, 8]}}, "is damaged: its run lengths sum to 47, not to 6 x 8"),
        (
            {"segmentation": {"counts": [1, "2"], "size": [6, 8]}},
            "is damaged: its run lengths or their size are no whole numbers",
        ),
        ({"segmentation": {"counts": "!", "size": [6, 8]}}, "is damaged: the compressed run lengths are damaged"),
        ({"segmentation": {"counts": [48]}}, "annotation 0 of FILE has no entry 'size'; use COCO's format"),
        ({"segmentation": {"counts": [0], "size": [1 << 40, 1 << 40]}}, "is damaged: its run lengths sum to 0"),
        ({}, "annotation 0 of FILE has no entry 'bbox'"),
        ({"bbox": [1, 2, 0, 3]}, "is damaged: invalid bbox [1, 2, 0, 3]"),
        ({"bbox": [0, 0, 1, 1], "category_id": 5}, "is damaged: unknown category_id 5"),
        ({"bbox": [0, 0, 1, 1], "category_id": [1]}, "is damaged: invalid category_id [1]"),
        ({"bbox": [0, 0, 1, 1], "iscrowd": 2}, "is damaged: invalid iscrowd 2"),
    ],
    ids=str,
)
def test_damaged_annotations_are_refused(tmp_path, change, message):
    path = tmp_path / "c.json"
    write_coco(path, [change])
    with pytest.raises(InputError) as error:
        find(path)
    assert message.replace("FILE", repr(str(path))) in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"bbox": [2, 1, 40, 3]}, "annotation 0 of FILE is damaged: its shape exceeds the image of 8 x 6 pixels"),
        ({"segmentation": [[-4, 0, 3, 0, 3, 3]]}, "its shape exceeds the image of 8 x 6 pixels"),
        (
            {"segmentation": {"counts": [12], "size": [4, 3]}},
            "its run lengths are of 3 x 4 pixels, but the image has 8 x 6",
        ),
    ],
    ids=str,
)
def test_shapes_of_other_images_are_refused(tmp_path, shape, message):
    path = tmp_path / "c.json"
    write_coco(path, [shape])
    with pytest.raises(InputError) as error:
        locate(find(path))
    assert message.replace("FILE", repr(str(path))) in str(error.value)


def test_other_sizes_scale_or_are_refused(tmp_path):
    write_coco(tmp_path / "c.json", [SQUARE])
    doubled = locate(find(tmp_path / "c.json"), size=(12, 16))
    assert (doubled == FILLED).all()  # the model input is the same part of the image
    with pytest.raises(
        InputError,
        match=r"^image 0 of '.*' does not fit 'a.jpg': the mask has 8 x 6 pixels, but the image has 8 x 8; use",
    ):
        locate(find(tmp_path / "c.json"), size=(8, 8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the masks FILE: Expecting"),
        ("[" * 100_000, "cannot read the masks FILE: "),
        ("[]", "FILE holds a list, such as COCO results, without images and categories"),
        ("{}", "FILE is no COCO file: it lacks the lists images, annotations, categories"),
        ("7", "FILE is no COCO file"),
        (
            '{"shapes": [], "imagePath": "a.jpg"}',
            "FILE is a LabelMe file, which is not read; convert it to COCO with labelme2coco",
        ),
        ('{"images": [], "annotations": [], "categories": []}', "no annotation in FILE"),
        ('{"images": [3], "annotations": [], "categories": []}', "image 0 of FILE is damaged: it is no object"),
        ('{"images": [], "annotations": [[]], "categories": []}', "annotation 0 of FILE is damaged: it is no object"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "category 0 of FILE has no entry 'name'"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": 2}]}',
            "category 0 of FILE is damaged: invalid name 2",
        ),
    ],
    ids=range(11),
)
def test_other_json_is_refused(tmp_path, content, message):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        find(path)
    assert str(error.value).startswith(message.replace("FILE", repr(str(path))))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"id": 7}, "image 0 of FILE has no entry 'file_name'"),
        ({"id": 7, "file_name": 3}, "is damaged: invalid file_name 3"),
        ({"id": 7, "file_name": ".."}, "is damaged: invalid file_name '..'"),
        ({"file_name": "a.jpg"}, "image 0 of FILE has no entry 'id'"),
        ({"id": 7, "file_name": "a.jpg", "height": 6}, "is damaged: invalid height or width None"),
        ({"id": 7, "file_name": "a.jpg", "height": 6, "width": -8}, "is damaged: invalid height or width -8"),
        (
            {"id": 7, "file_name": "a.jpg", "height": 1 << 20, "width": 1 << 20},
            "is damaged: it is too large (1048576 x 1048576 pixels)",
        ),
    ],
    ids=str,
)
def test_damaged_images_are_refused(tmp_path, image, message):
    path = tmp_path / "c.json"
    write_coco(path, [SQUARE], [image])
    with pytest.raises(InputError) as error:
        find(path)
    assert message.replace("FILE", repr(str(path))) in str(error.value)
    twice = [{"id": 7, "file_name": "a.jpg"}] * 2
    write_coco(path, [SQUARE], twice)
    with pytest.raises(InputError, match=r"image 1 of .* is damaged: another image has the id 7 too"):
        find(path)


def test_masks_equal_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    pixels = np.random.default_rng(4).random((6, 8)) < 0.4
    changes = np.flatnonzero(np.diff(np.concatenate([[False], pixels.T.ravel()])))
    counts = np.diff([0, *changes, 48]).tolist()
    write_coco(tmp_path / "c.json", [{"segmentation": {"counts": counts, "size": [6, 8]}, "area": 9}])
    theirs = coco.COCO(str(tmp_path / "c.json"))
    expected = theirs.annToMask(json.loads((tmp_path / "c.json").read_text())["annotations"][0])
    assert (expected == pixels).all()
    assert (locate(find(tmp_path / "c.json")) == pixels).all()
