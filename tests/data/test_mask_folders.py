"""Folders of PNG masks: binary, class indices, Pascal VOC and ImageNet-S."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.helpers.mask_files import find, locate, voc_palette, write_png
from xplain.core.errors import InputError, ModelNote
from xplain.data.class_names import ClassNames
from xplain.data.preprocessing import Preprocessing

SHAPE = np.zeros((6, 8))
SHAPE[1:4, 2:7] = 1
VOC_MAP = np.zeros((6, 8))
VOC_MAP[1:3, 1:4], VOC_MAP[3:5, 4:8], VOC_MAP[0, :] = 8, 12, 255  # cat, dog, void
ANY = "the masks name no categories, so that any object counts for every target"


@pytest.mark.parametrize(("mode", "value"), [("1", 1), ("L", 1), ("L", 255), ("L", 200), ("RGB", 255), ("RGB", 1)])
def test_binary_masks_count_for_every_class(tmp_path, mode, value):
    write_png(
        tmp_path / "a.png", np.repeat(SHAPE[..., None], 3, axis=2) * value if mode == "RGB" else SHAPE * value, mode
    )
    with pytest.warns(ModelNote, match=f"^{ANY}"):
        masks = find(tmp_path)
    for target in range(3):
        assert (locate(masks, target) == SHAPE).all()


def test_empty_and_full_binary_masks(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((6, 8)))
    write_png(tmp_path / "b.png", np.full((6, 8), 255))
    masks = find(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    assert (locate(masks) == 0).all()
    assert (locate(masks, key="b.jpg") == 1).all()
    assert locate(masks, key="c.jpg") is None


def test_voc_masks_have_classes_and_void(tmp_path):
    assert voc_palette()[:6] == [0, 0, 0, 128, 0, 0]
    write_png(tmp_path / "SegmentationClass" / "a.png", VOC_MAP, "P", voc_palette())
    with pytest.warns(ModelNote, match="have the palette of Pascal VOC; their values are read as its 20 classes"):
        masks = find(tmp_path / "SegmentationClass")
    cat = (VOC_MAP == 8).astype(float)
    cat[VOC_MAP == 255] = np.nan
    np.testing.assert_array_equal(locate(masks, 0), cat)
    assert np.nansum(locate(masks, 1)) == (VOC_MAP == 12).sum()
    assert locate(masks, 2) is None  # no sheep


def test_voc_classes_must_be_classes_of_the_model(tmp_path):
    write_png(tmp_path / "a.png", np.where(VOC_MAP == 12, 20, VOC_MAP), "P", voc_palette())
    masks = find(tmp_path)
    with pytest.raises(InputError) as error:
        locate(masks, 0)
    assert str(error.value) == (
        f"the category 'tvmonitor' of {str(tmp_path)!r} is no class of the model; map categories to classes in a CSV file with "
        "category,class: categories=FILE"
    )


def test_table_maps_categories_to_classes(tmp_path):
    write_png(tmp_path / "masks" / "a.png", VOC_MAP, "P", voc_palette())
    table = tmp_path / "categories.csv"
    table.write_text("category,class\ncat,sheep\ncat,n02084071\ndog,3\n")
    masks = find(tmp_path / "masks", categories=str(table))
    assert locate(masks, 0) is None
    for target, value in ((1, 8), (2, 8), (3, 12)):
        assert ((locate(masks, target) == 1) == (value == VOC_MAP)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dgo,dog\n", "names the category 'dgo', which the masks do not have; did you mean 'dog'?"),
        (
            "zebra,dog\n",
            "names the category 'zebra', which the masks do not have; their categories are aeroplane, bicycle, ",
        ),
        ("cat,dgo\n", "names an unknown class of 'cat': unknown class 'dgo'; did you mean 'dog'?"),
        ("cat\n", "is not category,class: cat; write category,class"),
        ("cat,,\n", "is not category,class: cat,,; write category,class"),
        ("category,class\n", "no category in "),
        ("", "no category in "),
        ("\0", "cannot read the categories "),
    ],
)
def test_damaged_tables_are_refused(tmp_path, text, message):
    write_png(tmp_path / "masks" / "a.png", VOC_MAP, "P", voc_palette())
    table = tmp_path / "categories.csv"
    table.write_text(text)
    with pytest.raises(InputError) as error:
        find(tmp_path / "masks", categories=str(table))
    assert message in str(error.value)


def test_table_requires_categories(tmp_path):
    write_png(tmp_path / "masks" / "a.png", SHAPE)
    (tmp_path / "c.csv").write_text("cat,dog\n")
    with pytest.raises(InputError, match=r"the masks in '.*masks' name no categories; remove categories=.*c\.csv"):
        find(tmp_path / "masks", categories=str(tmp_path / "c.csv"))


@pytest.mark.parametrize("mode", ["L", "P"])
@pytest.mark.parametrize("text", ["background\ncat\ndog\n", "0 background\n2 dog\n1,cat", "\ufeff1\tcat\r\n2: dog\r\n"])
def test_names_beside_masks(tmp_path, mode, text):
    values = SHAPE.copy()
    values[5], values[0] = 2, 255
    write_png(tmp_path / "a.png", values, mode)
    (tmp_path / "classes.txt").write_bytes(text.encode())
    masks = find(tmp_path)
    assert ((locate(masks, 0) == 1) == (values == 1)).all()
    assert ((locate(masks, 1) == 1) == (values == 2)).all()
    assert np.isnan(locate(masks, 1)[0]).all()
    assert locate(masks, 2) is None


def test_value_0_may_be_a_category(tmp_path):
    write_png(tmp_path / "a.png", SHAPE)
    (tmp_path / "classes.txt").write_text("0 cat\n1 dog\n")
    assert (locate(find(tmp_path), 0) == 1 - SHAPE).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cat\ndog\n",
            "does not say whether 'cat' is the pixel value 0 or 1; write INDEX NAME in each line, or a name per line that begins",
        ),
        ("1 cat\n1 dog\n", "names the pixel value 1 twice: 'cat' and 'dog'"),
        ("\n", "no category in"),
        ("1 cat\ndog", "does not say whether '1 cat'"),
    ],
)
def test_unclear_names_are_refused(tmp_path, text, message):
    write_png(tmp_path / "a.png", SHAPE)
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        find(tmp_path)


def test_values_without_names_are_refused(tmp_path):
    write_png(tmp_path / "a.png", SHAPE * 7)
    (tmp_path / "classes.txt").write_text("background\ncat\n")
    with pytest.raises(
        InputError,
        match=r"the mask '.*a\.png' has the pixel value 7, which has no name; name the pixel values in classes",
    ):
        locate(find(tmp_path))


def colors(red: np.ndarray, green: np.ndarray | float = 0.0, blue: np.ndarray | float = 0.0) -> np.ndarray:
    return np.stack(np.broadcast_arrays(red, green, blue), axis=-1)


def test_imagenet_s_by_list(tmp_path):
    """Class 1 is the lowest wnid; 260 = 4 + 256; 1000 = 232 + 3 * 256 is ignored."""
    wnids = [f"n{10 * i:08d}" for i in range(1, 301)]
    (tmp_path / "classes.txt").write_text("\n".join(reversed(wnids)))
    red, green = SHAPE.copy(), np.zeros((6, 8))
    red[5], green[5] = 4, 1
    red[0], green[0] = 232, 3
    write_png(tmp_path / "a.png", colors(red, green), "RGB")
    names = ClassNames(("first", "last"), (wnids[0], wnids[259]), 2)
    masks = find(tmp_path, class_names=names)
    assert ((locate(masks, 0) == 1) == (SHAPE == 1)).all()
    assert ((locate(masks, 1) == 1)[5]).all()
    assert np.isnan(locate(masks, 1)[0]).all()
    red[:] = 0
    write_png(tmp_path / "a.png", colors(red), "RGB")
    assert locate(find(tmp_path, class_names=names), 0) is None


def test_imagenet_s_by_number_of_folders(tmp_path):
    wnids = [f"n{10 * i:08d}" for i in range(1, 51)]
    for wnid in wnids:
        write_png(tmp_path / wnid / f"{wnid}.png", colors(SHAPE * 50), "RGB")
    names = ClassNames(("first", "last"), (wnids[0], wnids[49]), 2)
    keys = [f"{wnid}/{wnid}.jpg" for wnid in wnids]
    masks = find(tmp_path, *keys, class_names=names)
    assert (locate(masks, 1, key=keys[3]) == SHAPE).all()
    assert locate(masks, 0, key=keys[3]) is None


def test_unknown_colors_are_named(tmp_path):
    write_png(tmp_path / "a.png", colors(SHAPE * 128, SHAPE * 64), "RGB")
    with pytest.raises(InputError) as error:
        locate(find(tmp_path))
    assert str(error.value) == (
        f"the colors of the mask {str(tmp_path / 'a.png')!r} are unknown: (0, 0, 0), (128, 64, 0); list the wnids of ImageNet-S in "
        "classes.txt in the folder of the masks, or save binary masks in mode L"
    )
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"cannot read the wnids in '.*classes\.txt': 'cat' is no wnid"):
        find(tmp_path)
    (tmp_path / "classes.txt").write_text("n00000001\nn00000001\n")
    with pytest.raises(InputError, match="its lines are not different wnids"):
        find(tmp_path)
    (tmp_path / "classes.txt").write_text("n00000001\n")
    with pytest.raises(InputError, match="has the pixel value 16512, which has no name"):
        locate(find(tmp_path, class_names=ClassNames((), ("n00000001",), 1)))


@pytest.mark.parametrize(
    ("values", "mode", "message"),
    [
        (np.arange(48).reshape(6, 8), "L", r"is not binary \(values 0, 1, 2, 3, \.\.\.\); name the pixel values"),
        (SHAPE + 3, "L", r"is not binary \(values 3, 4\)"),
        (SHAPE, "P", "has a palette, and its values have no names"),
        (np.zeros((6, 8, 2)), "LA", "has the mode LA, unlike other masks"),
    ],
    ids=["gray", "two values", "palette", "alpha"],
)
def test_other_gray_masks_are_refused(tmp_path, values, mode, message):
    if mode == "LA":
        Image.new("LA", (8, 6)).save(tmp_path / "a.png")
    else:
        write_png(tmp_path / "a.png", values, mode)
    with pytest.raises(InputError, match=message):
        locate(find(tmp_path))


def test_mixed_folders_are_refused(tmp_path):
    write_png(tmp_path / "a.png", SHAPE)
    write_png(tmp_path / "b.png", colors(SHAPE), "RGB")
    with pytest.raises(
        InputError, match=r"b\.png' has the mode RGB, unlike other masks; save masks as PNG of mode 1 or L"
    ):
        locate(find(tmp_path, "a.jpg", "b.jpg"), key="b.jpg")


def test_instances_and_damaged_files_are_refused(tmp_path):
    write_png(tmp_path / "SegmentationObject" / "a.png", VOC_MAP, "P", voc_palette())
    with pytest.raises(
        InputError, match=r"'SegmentationObject' in .* holds instances, not classes; pass the folder SegmentationClass"
    ):
        find(tmp_path)
    with pytest.raises(InputError, match="holds instances"):
        find(tmp_path / "SegmentationObject")
    for content in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        (tmp_path / "SegmentationObject" / "a.png").read_bytes()[:60],
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "a.png").write_bytes(content)
        with pytest.raises(InputError, match=r"^cannot read the mask '.*a\.png': .*; save masks as PNG"):
            find(tmp_path / "other")


def test_own_orientation_of_masks(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_png(tmp_path / "a.png", SHAPE, exif=exif)
    found = locate(find(tmp_path), size=(8, 6), preprocessing=Preprocessing((8, 6), (8, 6)))
    assert (found == np.rot90(SHAPE, -1)).all()
    with pytest.raises(InputError, match=r"does not fit 'a.jpg': the mask has 6 x 8 pixels, but the image has 8 x 6"):
        locate(find(tmp_path))
