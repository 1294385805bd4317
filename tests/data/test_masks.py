"""Which mask belongs to which image, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.mask_files import find, locate, write_png
from xplain.core.errors import InputError, ModelNote

SHAPE = np.zeros((6, 8))
SHAPE[1:4, 2:7] = 255
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>4</ymax></bndbox></object>"
)


@pytest.mark.parametrize(
    ("mask", "key"),
    [
        ("a.png", "a.jpg"),
        ("a.png", "cat/a.jpg"),
        ("cat/a.PNG", "cat/a.jpeg"),
        ("a.v1.x.png", "a.v1.x.jpg"),
        ("a.jpg.png", "b/a.jpg"),
        ("val/cat/a.png", "cat/a.jpg"),
    ],
)
def test_masks_are_named_after_images(tmp_path, mask, key):
    write_png(tmp_path / mask, SHAPE, format="PNG")
    assert list(find(tmp_path, key, "other.jpg").entries) == [key]


def test_stem_with_dots_is_no_shorter_stem(tmp_path):
    write_png(tmp_path / "a.png", SHAPE)
    write_png(tmp_path / "a.b.png", SHAPE[::-1])
    masks = find(tmp_path, "a.b.jpg", "a.jpg")
    assert (locate(masks, key="a.b.jpg") == SHAPE[::-1] / 255).all()
    assert (locate(masks, key="a.jpg") == SHAPE / 255).all()


def test_ambiguous_masks_are_refused(tmp_path):
    write_png(tmp_path / "a.png", SHAPE)
    with pytest.raises(InputError) as error:
        find(tmp_path, "cat/a.jpg", "dog/a.jpg")
    assert str(error.value) == (
        f"the mask {str(tmp_path / 'a.png')!r} fits 'cat/a.jpg' and 'dog/a.jpg'; name each mask after the whole path of its image"
    )
    write_png(tmp_path / "cat" / "a.png", SHAPE)
    with pytest.raises(
        InputError, match=r"^'.*a\.png' and '.*cat/a\.png' are both masks of 'cat/a\.jpg'; keep one mask per image$"
    ):
        find(tmp_path, "cat/a.jpg")


def test_unmatched_masks_and_images_are_noted(tmp_path):
    for name in "abc":
        write_png(tmp_path / f"{name}.png", SHAPE)
    with pytest.warns(ModelNote) as notes:
        find(tmp_path, "a.jpg", "x.jpg", "y.jpg")
    texts = [str(note.message) for note in notes]
    assert texts[1:] == [
        f"2 of 3 masks in {str(tmp_path)!r} belong to no image of the data set, such as 'b'",
        f"2 of 3 images have no mask in {str(tmp_path)!r}",
    ]
    with pytest.warns(ModelNote) as notes:
        find(tmp_path, "a.jpg", "b.jpg", "c.jpg", "x.jpg")
    assert len(notes) == 1  # half of the images and more have one


def test_masks_of_other_images_are_refused(tmp_path):
    write_png(tmp_path / "a_mask.png", SHAPE)
    with pytest.raises(InputError) as error:
        find(tmp_path, "a.jpg")
    assert str(error.value) == (
        f"no mask in {str(tmp_path)!r} belongs to an image of the data set: looked for 'a_mask' among 'a.jpg', ...; name masks after "
        "their images"
    )


def test_masks_of_other_sizes_are_refused(tmp_path):
    write_png(tmp_path / "a.png", SHAPE)
    with pytest.raises(InputError) as error:
        locate(find(tmp_path), size=(6, 10))
    assert str(error.value) == (
        f"the mask {str(tmp_path / 'a.png')!r} does not fit 'a.jpg': the mask has 8 x 6 pixels, but the image has 10 x 6; use a mask of "
        "the image's size or aspect ratio"
    )
    assert (locate(find(tmp_path), size=(18, 24)) == SHAPE / 255).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "a.json",
            "holds JSON files, such as those of LabelMe, which are not read; convert them to COCO with labelme2coco",
        ),
        ("a.txt", "holds text files, such as those of YOLO, which are not read; convert them to COCO with globox"),
        ("a.jpg", "no mask in '.*'; pass a folder of PNG or Pascal VOC XML, or a COCO JSON file"),
    ],
)
def test_other_folders_are_refused(tmp_path, name, message):
    (tmp_path / name).write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match=message):
        find(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", r"'.*a\.txt' looks like YOLO text, which is not read; convert it to COCO with globox"),
        ("a.png", r"'.*a\.png' is a single file; pass the folder of the masks"),
        ("a.npy", r"cannot read the masks '.*a\.npy': "),
    ],
)
def test_other_files_are_refused(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=message):
        find(tmp_path / name)


def write_xml(path, *objects: tuple[str, int, int, int], size: tuple[int, int] = (8, 6)) -> None:
    text = "".join(OBJECT.format(*entry) for entry in objects)
    path.write_text(f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{text}</annotation>")


def test_difficult_objects_of_xml_files(tmp_path):
    write_xml(tmp_path / "a.xml", ("cat", 0, 1, 3), ("cat", 1, 5, 6), ("dog", 1, 7, 8))
    kept = locate(find(tmp_path))
    assert kept[1:4].astype(int).tolist() == [[1, 1, 1, 0, 1, 1, 0, 0]] * 3
    assert kept.sum() == 15
    ignored = locate(find(tmp_path, difficult="ignore"))
    assert np.isnan(ignored[1:4, 4:6]).all()
    assert np.nansum(ignored) == 9
    assert np.isnan(ignored).sum() == 6
    assert locate(find(tmp_path), 1).sum() == 6
    assert locate(find(tmp_path, difficult="ignore"), 1) is None
    assert locate(find(tmp_path), 2) is None


def test_xml_boxes_outside_their_image_are_refused(tmp_path):
    write_xml(tmp_path / "a.xml", ("cat", 0, 1, 9))
    with pytest.raises(
        InputError, match=r"the box 0,1,9,4 \('.*a\.xml'\) does not fit 'a\.jpg' of 8 x 6 pixels; write boxes in pixels"
    ):
        locate(find(tmp_path))
    write_xml(tmp_path / "a.xml", ("cat", 0, 1, 3), size=(80, 60))
    with pytest.raises(InputError, match="does not fit"):
        locate(find(tmp_path))
    (tmp_path / "a.xml").write_text("<annotation></annotation>")
    with pytest.raises(InputError, match=r"no object in the XML files of '.*'; use Pascal VOC XML"):
        find(tmp_path)
