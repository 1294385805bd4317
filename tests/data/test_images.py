"""Finding images, decoding what people have, and preprocessing bit for bit like torchvision."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

import xplain
from xplain.core.errors import InputError, UsageError
from xplain.data.images import decode_image, sha256
from xplain.data.preprocessing import Preprocessing, preprocess
from xplain.data.sources import find_images

BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def stems(sources) -> list[str]:
    return [each.stem for each in sources]


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Image.Image:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def pixels(content: bytes) -> np.ndarray:
    image = decode_image(content, "a.png")
    assert image.mode == "RGB"
    return np.asarray(image)


# ------------------------------------------------------------------------------------------------- finding


def test_files_are_taken_as_they_are_named_whatever_their_suffix(here):
    make("b.jpg", "sub/a.dat")
    found = find_images(["b.jpg", "sub/a.dat"])
    assert [(str(each.path), each.stem, each.folder) for each in found] == [
        ("b.jpg", "b", here.name),
        ("sub/a.dat", "a", "sub"),
    ]


def test_a_directory_gives_its_images_recursively_sorted_without_hidden_ones(here):
    make("d/z.PNG", "d/b/2.jpeg", "d/b/1.jpg", "d/notes.txt", "d/.hidden.png", "d/.cache/3.png", "d/b/.4.jpg")
    found = find_images(["d"])
    assert sorted(stems(found)) == ["b/1", "b/2", "z"]
    assert stems(found) == stems(find_images(["d"]))
    assert {each.stem: each.folder for each in found} == {"z": "d", "b/1": "b", "b/2": "b"}


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "avif"])
def test_a_directory_gives_every_usual_suffix(here, suffix):
    make(f"d/a.{suffix}", "d/a.npz", "d/jpg")
    assert [each.path.name for each in find_images(["d"])] == [f"a.{suffix}"]


def test_globs_are_expanded_in_order(here):
    make("d/b.png", "d/a.png", "d/c.jpg", "d/e/f.png", "d/.x.png")
    assert stems(find_images(["d/*.png"])) == ["a", "b"]
    assert stems(find_images(["d/**/*.png"])) == ["a", "b", "f"]
    assert stems(find_images([str(here / "d" / "[bc].*")])) == ["b", "c"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(here):
    make("img[1].png", "img1.png")
    assert [each.path.name for each in find_images(["img[1].png"])] == ["img[1].png"]


def test_a_glob_that_matches_a_directory_gives_the_images_in_it(here):
    make("d1/a.png", "d2/b.png")
    assert stems(find_images(["d*"])) == ["a", "b"]


def test_lists_are_read_after_at_and_after_files_from(here):
    make("a.png", "b.png", "d/c.png")
    Path("list.txt").write_text("b.png\n\nd\r\nmissing.png\n")
    for found in (find_images(["@list.txt"]), find_images([], files_from="list.txt")):
        assert stems(found) == ["b", "c", "missing"]
    assert stems(find_images(["a.png"], files_from="list.txt")) == ["a", "b", "c", "missing"]


def test_a_file_whose_name_begins_with_at_is_that_file(here):
    make("@a.png")
    assert stems(find_images(["@a.png"])) == ["@a"]


def test_a_list_and_an_image_can_come_on_standard_input(here, monkeypatch):
    make("a.png", "b.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.png\nb.png\n")))
    assert stems(find_images([], files_from="-")) == ["a", "b"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x89PNG...")))
    (found,) = find_images(["-"])
    assert (found.stem, found.name, found.path, found.read()) == ("stdin", "-", None, b"\x89PNG...")


def test_standard_input_cannot_be_two_things():
    with pytest.raises(UsageError, match="both"):
        find_images(["-"], files_from="-")


def test_missing_files_are_kept_and_reported_when_read(here):
    make("a.png")
    found = find_images(["a.png", "gone.png"])
    assert stems(found) == ["a", "gone"]
    with pytest.raises(InputError, match=r"^no such file: 'gone\.png'") as error:
        found[1].read()
    assert error.value.exit_code == 3


def test_a_directory_in_the_place_of_a_file_is_an_input_error(here):
    make("a.png")
    (source,) = find_images(["a.png"])
    Path("a.png").unlink()
    Path("a.png").mkdir()
    with pytest.raises(InputError, match=r"'a\.png'"):
        source.read()


def test_a_file_that_is_named_twice_is_one_image(here):
    make("d/a.png")
    assert stems(find_images(["d/a.png", "d", "d/*.png", "./d/a.png"])) == ["a"]


def test_stems_that_collide_keep_their_suffix_then_their_path(here):
    make("d/a.jpg", "d/a.png", "d/b.png", "e/b.png")
    assert stems(find_images(["d/a.jpg", "d/a.png", "d/b.png"])) == ["a.jpg", "a.png", "b"]
    both = stems(find_images(["d/b.png", "e/b.png"]))
    root = "/".join(here.parts[1:])
    assert both == [f"{root}/d/b.png", f"{root}/e/b.png"]
    make("d/a.jpg.png")
    found = stems(find_images(["d"]))
    assert len(set(found)) == len(found) == 4


def test_stems_differ_however_the_same_file_is_spelt(here):
    make("d/a.png")
    found = stems(find_images(["d/a.png", str(here / "d" / "a.png"), "d/../d/a.png"]))
    assert len(set(found)) == len(found)


def test_a_directory_without_images_says_which_suffixes_are_looked_for(here):
    Path("empty").mkdir()
    with pytest.raises(InputError, match=r"no image in the directory 'empty'; .*\.jpg"):
        find_images(["empty"])


def test_a_glob_that_matches_nothing_is_an_input_error(here):
    with pytest.raises(InputError, match=r"nothing matches 'x/\*\.png'"):
        find_images(["x/*.png"])


def test_naming_nothing_is_wrong_use():
    with pytest.raises(UsageError, match="no image was named") as error:
        find_images([])
    assert error.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_list_is_an_input_error(here, content):
    Path("list.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"'list\.txt' names no image"):
        find_images(["@list.txt"])


def test_a_list_that_is_missing_or_binary_is_an_input_error(here):
    with pytest.raises(InputError, match=r"cannot read the list 'gone\.txt'"):
        find_images(["@gone.txt"])
    Path("bin.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read the list 'bin\.txt'"):
        find_images([], files_from="bin.txt")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_an_input_error(here):
    make("a.png")
    Path("a.png").chmod(0)
    (source,) = find_images(["a.png"])
    with pytest.raises(InputError, match="cannot read"):
        source.read()


# ------------------------------------------------------------------------------------------------- decoding


def test_no_bytes_are_an_empty_file():
    with pytest.raises(InputError, match=r"'a\.png' is empty \(0 bytes\)"):
        decode_image(b"", "a.png")


def test_text_under_an_image_name_is_not_an_image():
    with pytest.raises(InputError, match=r"'a\.jpg' is not an image"):
        decode_image(b"hello, this is text", "a.jpg")


@pytest.mark.parametrize(("form", "kept"), [("JPEG", 0.5), ("PNG", 0.5), ("GIF", 0.5), ("BMP", 0.5), ("TIFF", 0.3)])
def test_a_truncated_file_is_damaged(form, kept):
    content = encode(noise(40, 40), form)
    with pytest.raises(InputError, match=r"'a'.*(damaged|not an image)") as error:
        decode_image(content[: int(len(content) * kept)], "a")
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_is_an_input_error():
    content = encode(noise(12, 15), "AVIF")
    damaged = content.replace(b"pitm", b"pit\xce")
    assert damaged != content
    with pytest.raises(InputError, match=r"'a\.avif'"):
        decode_image(damaged, "a.avif")


def test_an_image_of_too_many_pixels_is_an_input_error(monkeypatch):
    content = encode(noise(20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="too large"):
        decode_image(content, "a.png")


def test_rgb_is_left_as_it_is():
    image = noise(3, 4)
    assert np.array_equal(pixels(encode(image)), np.asarray(image))


def test_grey_gives_three_equal_channels():
    image = noise(3, 4, channels=1)
    assert np.array_equal(pixels(encode(image)), np.repeat(np.asarray(image)[:, :, None], 3, axis=2))


def test_a_palette_gives_its_colours():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([2, 0, 1])
    assert pixels(encode(image)).tolist() == [[list(BLUE), list(RED), list(GREEN)]]


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([2, 0, 1])
    assert pixels(encode(image, transparency=0)).tolist() == [[list(BLUE), list(WHITE), list(GREEN)]]


def test_a_transparent_colour_of_an_opaque_mode_is_white():
    image = Image.new("RGB", (2, 1))
    image.putdata([RED, GREEN])
    assert pixels(encode(image, transparency=RED)).tolist() == [[list(WHITE), list(GREEN)]]
    grey = Image.new("L", (2, 1))
    grey.putdata([10, 20])
    assert pixels(encode(grey, transparency=10)).tolist() == [[list(WHITE), [20] * 3]]


def test_rgba_is_laid_over_white():
    image = Image.new("RGBA", (4, 1))
    image.putdata([(0, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 51), (100, 200, 0, 102)])
    # alpha 0.2 of black over white is 204; alpha 0.4 of (100, 200, 0) is (40, 80, 0) + 0.6 * 255
    assert pixels(encode(image)).tolist() == [[list(BLACK), list(WHITE), [204] * 3, [193, 233, 153]]]


def test_grey_with_alpha_is_laid_over_white():
    image = Image.new("LA", (3, 1))
    image.putdata([(7, 255), (7, 0), (0, 51)])
    assert pixels(encode(image)).tolist() == [[[7] * 3, [255] * 3, [204] * 3]]


def test_16_bit_grey_is_scaled_not_cut():
    values = np.array([[0, 128, 129, 257, 257 * 100, 32768, 65535]], dtype=np.uint16)
    expected = [0, 0, 1, 1, 100, 128, 255]  # value / 257, rounded
    for form in ("PNG", "TIFF"):
        assert pixels(encode(Image.fromarray(values), form))[0].tolist() == [[each] * 3 for each in expected]


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (4, 1))
    image.putdata([(0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0), (0, 255, 255, 0)])
    assert pixels(encode(image, "TIFF")).tolist() == [[list(WHITE), list(BLACK), [0, 255, 255], list(RED)]]


def test_bilevel_is_black_and_white():
    image = Image.new("1", (2, 1))
    image.putdata([0, 1])
    assert pixels(encode(image)).tolist() == [[list(BLACK), list(WHITE)]]


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(content).reshape(-1, 3).tolist() == [list(RED)] * 4


# How an upright picture is stored under each EXIF orientation: the inverse of what a viewer does to show it.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),  # shown turned clockwise, so stored turned anticlockwise
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_every_exif_orientation_gives_the_upright_picture(orientation, form):
    upright = np.asarray(noise(5, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    assert np.array_equal(pixels(encode(stored, form, exif=exif)), upright)


def test_exif_orientation_holds_for_jpeg_16_bit_grey_and_alpha():
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, axis=1).repeat(8, axis=0))  # black left half
    shown = np.asarray(decode_image(encode(jpeg, "JPEG", exif=exif, quality=100), "a.jpg"))
    assert shown.shape == (16, 8, 3)
    assert shown[:8].max() == 0  # turned clockwise: the left half is the upper one
    assert shown[8:].min() == 255
    deep = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    assert pixels(encode(deep, exif=exif))[:, 0, 0].tolist() == [0, 255]
    clear = Image.new("RGBA", (2, 1))
    clear.putdata([(0, 0, 0, 255), (0, 0, 0, 0)])
    assert pixels(encode(clear, exif=exif))[:, 0].tolist() == [list(BLACK), list(WHITE)]


# ------------------------------------------------------------------------------------------------- preprocessing


def without_normalisation(transforms, image: Image.Image) -> torch.Tensor:
    transforms.mean, transforms.std = [0.0] * 3, [1.0] * 3
    return transforms(image)


SIZES = [
    (300, 451),
    (451, 300),
    (257, 333),
    (232, 232),
    (233, 232),
    (342, 500),
    (100, 37),
    (37, 100),
    (1, 1),
    (224, 224),
]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_preprocessing_equals_torchvision_bit_for_bit(height, width):
    from torchvision.models import Inception_V3_Weights, ResNet50_Weights

    image = noise(height, width, seed=height)
    ours = {
        ResNet50_Weights.IMAGENET1K_V2: Preprocessing((224, 224), 232, "bilinear"),
        Inception_V3_Weights.IMAGENET1K_V1: Preprocessing((299, 299), 342, "bilinear"),
    }
    for weights, preprocessing in ours.items():
        expected = without_normalisation(weights.transforms(), image)
        found = preprocess(image, preprocessing)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (31, 35), (32, 32)])
def test_every_interpolation_equals_torchvision_bit_for_bit(interpolation, crop, resize):
    from torchvision.transforms._presets import ImageClassification
    from torchvision.transforms.functional import InterpolationMode

    transforms = ImageClassification(crop_size=crop, resize_size=resize, interpolation=InterpolationMode(interpolation))
    image = noise(51, 75)
    expected = without_normalisation(transforms, image)
    assert torch.equal(preprocess(image, Preprocessing((crop, crop), resize, interpolation)), expected)


def test_a_crop_wider_than_the_resized_image_is_padded_as_torchvision_does():
    from torchvision.transforms._presets import ImageClassification

    transforms = ImageClassification(crop_size=9, resize_size=6)
    for height, width in ((6, 6), (6, 8), (8, 6), (6, 20)):
        image = noise(height, width)
        expected = without_normalisation(transforms, image)
        assert torch.equal(preprocess(image, Preprocessing((9, 9), 6, "bilinear")), expected)


def test_a_rectangular_crop_takes_the_centre():
    image = noise(10, 12)
    found = preprocess(image, Preprocessing((4, 6), 10))
    expected = torch.tensor(np.asarray(image)[3:7, 3:9].astype(np.float32) / 255).permute(2, 0, 1)
    assert torch.equal(found, expected)


def test_sizes_resize_to_the_usual_share():
    assert Preprocessing.for_size(224) == Preprocessing((224, 224), 256, "bicubic")
    assert Preprocessing.for_size(299) == Preprocessing((299, 299), 342, "bicubic")
    assert Preprocessing.for_size((64, 128)) == Preprocessing((64, 128), 146, "bicubic")


def test_another_side_keeps_the_share_of_the_resize():
    assert Preprocessing((299, 299), 342, "bilinear").resized_to(224) == Preprocessing((224, 224), 256, "bilinear")
    assert Preprocessing((224, 224), 232).resized_to(112) == Preprocessing((112, 112), 116)
    assert Preprocessing((64, 128), 146).resized_to(128) == Preprocessing((128, 128), 146)


def test_read_image_is_a_bicubic_256_resize_and_a_224_crop(tmp_path):
    path = tmp_path / "a.png"
    image = noise(300, 280)
    image.save(path)
    resized = np.asarray(image.resize((256, int(256 * 300 / 280)), Image.Resampling.BICUBIC))
    expected = resized[25:249, 16:240].astype(np.float32) / 255  # 274 rows: 25 above, 25 below
    found = xplain.read_image(path)
    assert torch.equal(found, torch.tensor(expected).permute(2, 0, 1))
    assert torch.equal(xplain.read_image(str(path)), found)
    assert found.is_contiguous()


def test_read_image_takes_a_size_or_a_classifiers_preprocessing(tmp_path):
    path = tmp_path / "a.png"
    noise(64, 80).save(path)
    own = Preprocessing((32, 48), 64, "nearest")
    expected = np.asarray(Image.open(path))[16:48, 16:64].astype(np.float32) / 255
    assert torch.equal(xplain.read_image(path, preprocessing=own), torch.tensor(expected).permute(2, 0, 1))
    assert xplain.read_image(path, 32).shape == (3, 32, 32)
    assert xplain.read_image(path, size=(32, 40)).shape == (3, 32, 40)


def test_read_image_of_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        xplain.read_image(tmp_path / "gone.png")


def test_sha256_is_that_of_the_bytes():
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
