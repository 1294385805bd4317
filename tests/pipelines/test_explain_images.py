"""``xplain.explain``: every kind of image, the record and the pictures."""

import copy
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import xplain
from tests.conftest import SAMPLES, TINY
from tests.helpers import small_models, toys
from xplain.core.errors import InputError, UsageError
from xplain.core.options import RenderOptions
from xplain.reports.render import read_record

CAT = SAMPLES / "cat.jpg"


@pytest.fixture(scope="module")
def classifier():
    return xplain.load_classifier(TINY[1], device="cpu")


@pytest.fixture(scope="module")
def pixels(classifier):
    return xplain.read_image(CAT, preprocessing=classifier.preprocessing)


@pytest.fixture(scope="module")
def explanation(classifier):
    return xplain.explain(classifier, CAT, "ig", steps=4)


def test_equals_the_command(xp, explanation, tmp_path):
    (record,) = xp("explain", CAT, *TINY, "-a", "ig:steps=4", "--json", "--save", "raw", "-o", tmp_path).records
    stored = np.load(record["files"]["raw"])
    np.testing.assert_array_equal(explanation.values.float().numpy(), stored["attribution"])
    np.testing.assert_array_equal(explanation.image.numpy(), stored["image"])
    own = explanation.to_dict()
    assert set(own) == set(record) - {"files", "render", "fingerprint", "stability"}
    own["cost"].pop("seconds")
    record["cost"].pop("seconds")
    assert {key: record[key] for key in own} == own
    assert explanation.target == record["target"]["index"]
    assert explanation.target_name == record["target"]["name"]
    assert explanation.probability == record["target"]["probability"]
    assert json.loads(json.dumps(own)) == own


def test_every_kind_of_image_gives_the_same_map(classifier, tmp_path):
    path = tmp_path / "cat.png"
    array = np.asarray(Image.open(CAT).convert("RGB").resize((60, 50)))
    Image.fromarray(array).save(path)
    pixels = xplain.read_image(path, preprocessing=classifier.preprocessing)
    explanation = xplain.explain(classifier, path, "ig", steps=4)
    images = [
        str(path),
        Image.open(path),
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array.copy()),
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        pixels,
        pixels.double(),
        pixels.numpy(),
    ]
    for image in images:
        assert torch.equal(xplain.explain(classifier, image, "ig", steps=4).values, explanation.values), type(image)
    listed = xplain.explain(classifier, images[:5], "ig", steps=4)
    assert isinstance(listed, xplain.Explanations)
    assert len(listed) == 5
    toys.assert_same(listed.values, explanation.values.expand(5, -1, -1, -1), rtol=1e-5)
    batch = xplain.explain(classifier, torch.stack([pixels, pixels]), "ig", steps=4)
    assert [type(entry) for entry in batch] == [xplain.Explanation] * 2


def test_floats_with_channels_last_are_resized_like_files(classifier):
    array = np.asarray(Image.open(CAT).convert("RGB"))
    from_floats = xplain.explain(classifier, array.astype(np.float32) / 255, "saliency")
    assert from_floats.image.shape == (3, 32, 32)
    difference = from_floats.image - xplain.explain(classifier, array, "saliency").image
    assert 0 < float(difference.abs().max()) < 1 / 255


def test_pillow_images_are_upright_and_without_transparency(classifier, tmp_path):
    """An image in memory gives what its file gives: orientation, transparency, palettes and 16 bits."""
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (40, 60, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "turned.jpg": (Image.fromarray(color[..., :3]), {"exif": turned}),
        "clear.png": (Image.fromarray(color), {}),
        "palette.png": (Image.fromarray(color[..., :3]).quantize(8), {"transparency": 3}),
        "gray.png": (Image.fromarray(color[..., 0].astype(np.uint16) * 257), {}),
        "cmyk.jpg": (Image.fromarray(color, "CMYK"), {}),
    }
    for name, (image, options) in files.items():
        image.save(tmp_path / name, **options)
        in_memory = xplain.explain(classifier, Image.open(tmp_path / name), "saliency").image
        assert torch.equal(in_memory, xplain.explain(classifier, tmp_path / name, "saliency").image), name
    blended = xplain.explain(classifier, tmp_path / "clear.png", "saliency").image
    assert torch.equal(xplain.explain(classifier, color, "saliency").image, blended)


def test_directories_and_globs_in_lists(classifier, photos):
    explanations = xplain.explain(classifier, [photos, f"{photos}/cat/*.jpg"], "saliency")
    names = [entry.record["input"].removeprefix(f"{photos}/") for entry in explanations]
    assert names == ["cat/a.jpg", "espresso/b.jpg", "rocket/c.jpg", "cat/a.jpg"]
    with pytest.raises(
        UsageError, match=re.escape(f"{str(photos)!r} names several images; pass a list: [{str(photos)!r}]")
    ):
        xplain.explain(classifier, photos, "saliency")


def test_targets_and_contrasts_per_image(classifier, pixels):
    explanations = xplain.explain(classifier, [pixels, pixels], "saliency", target=["cat", 2], against=[[1], [3]])
    assert [entry.target for entry in explanations] == [0, 2]
    assert [[c["index"] for c in entry.record["against"]] for entry in explanations] == [[1], [3]]
    auto = xplain.explain(classifier, pixels, "saliency", target="auto")
    assert auto.target == int(classifier(pixels[None]).argmax())


def test_models_by_name_and_as_modules(pixels):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    explanation = xplain.explain(module, pixels, "grad-cam", layer=module[1], device="cpu", target=2)
    assert explanation.record["details"]["layer"] == "1"
    named = xplain.explain(TINY[1], pixels, "saliency", device="cpu")
    loaded = xplain.explain(xplain.load_classifier(TINY[1], device="cpu"), pixels, "saliency")
    assert torch.equal(named.values, loaded.values)
    one, other = (xplain.explain("efficientnet-lite0", CAT, "saliency", device="cpu") for _ in range(2))
    assert torch.equal(one.values, other.values)
    assert one.target_name == "tiger cat"


def test_function_as_target(classifier, pixels):
    explanation = xplain.explain(classifier, pixels, "saliency", target=lambda output: output[:, 1] - output[:, 0])
    logits = classifier(pixels[None])[0].detach()
    assert explanation.probability is None
    assert explanation.record["target"]["value"] == pytest.approx(float(logits[1] - logits[0]), rel=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_models_of_other_channels(channels):
    factory = {1: small_models.one_channel, 4: small_models.four_channels}[channels]
    classifier = xplain.load_classifier(factory(), device="cpu", size=64)
    values = np.random.default_rng(1).random((channels, 64, 64), dtype=np.float32)
    explanation = xplain.explain(classifier, values, "saliency")
    assert explanation.values.shape == (channels, 64, 64)
    assert explanation.overlay().size == (64, 64)
    stored = (values.transpose(1, 2, 0) * 65535).astype(np.uint16)
    assert xplain.explain(classifier, stored, "saliency").image.shape[1:] == (64, 64)


def test_refused_images(classifier, pixels):
    normalized = (pixels - 0.5) * 4
    low, high = float(normalized.min()), float(normalized.max())
    message = f"the images have values from {low:.7g} to {high:.7g}, not in [0, 1]; pass pixels in [0, 1]: divide"
    for image in (normalized, normalized.numpy(), [pixels, normalized], normalized.permute(1, 2, 0)):
        with pytest.raises(InputError, match=re.escape(message)):
            xplain.explain(classifier, image, "saliency")
    with pytest.raises(InputError, match=r"the images contain NaN or infinity; pass finite values"):
        xplain.explain(classifier, pixels / 0, "saliency")
    with pytest.raises(InputError, match=r"the images have different shapes, such as \(3, 32, 32\) and \(3, 16, 32\)"):
        xplain.explain(classifier, [pixels, pixels[:, :16]], "saliency")
    with pytest.raises(UsageError, match=r"'image 1' is of type int; pass a path, a Pillow image, a NumPy array or a"):
        xplain.explain(classifier, [pixels, 3], "saliency")
    with pytest.raises(UsageError, match=r"there are no images; pass at least one image"):
        xplain.explain(classifier, [], "saliency")
    with pytest.raises(UsageError, match=r"'image' has the shape \(7,\); pass \(C, H, W\) or \(H, W, C\)"):
        xplain.explain(classifier, np.zeros(7), "saliency")
    with pytest.raises(UsageError, match=r"'image' is an array of <U1; pass numbers, such as uint8 or float32"):
        xplain.explain(classifier, np.array([["a"]]), "saliency")
    with pytest.raises(InputError, match=r"no such file: 'none.jpg'"):
        xplain.explain(classifier, "none.jpg", "saliency")
    with pytest.raises(UsageError, match=r"the classifier is of type int"):
        xplain.explain(3, pixels)


class RootAtZero(nn.Module):
    """Finite logits whose gradient is NaN."""

    def forward(self, x):
        return (x.flatten(1)[:, :2] * 0).sqrt()


def test_maps_that_are_not_finite_are_refused(pixels):
    message = "the attributions of 'image' contain NaN or infinity; check the weights or use precision fp32"
    classifier = xplain.load_classifier(RootAtZero(), device="cpu", size=32)
    with pytest.raises(InputError, match=message):
        xplain.explain(classifier, pixels, "saliency")


def test_overlay_equals_that_of_the_command(xp, explanation, tmp_path):
    options = ("--sign", "signed", "--clip", "50,90", "--opacity", "0.5")
    ran = xp("explain", CAT, *TINY, "-a", "ig:steps=4", *options, "-o", tmp_path)
    expected = np.asarray(Image.open(ran.lines[0]))
    overlay = explanation.overlay(sign="signed", clip=(50, 90), opacity=0.5)
    np.testing.assert_array_equal(np.asarray(overlay), expected)
    assert not np.array_equal(np.asarray(explanation.overlay()), expected)


def test_saved_files_hold_the_record(explanation, tmp_path):
    path = explanation.save(tmp_path / "new" / "cat.png")
    assert read_record(path) == explanation.to_dict()
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(explanation.overlay()))
    raw = np.load(explanation.save(str(tmp_path / "cat.npz")))
    np.testing.assert_array_equal(raw["attribution"], explanation.values.float().numpy())
    figure = Image.open(explanation.save(tmp_path / "figure.png", "figure"))
    assert figure.size == Image.open(io.BytesIO(explanation._repr_png_())).size
    assert figure.width > 1000
    with pytest.raises(UsageError, match=r"cannot save 'cat.gif'; use a name that ends in .png or .npz"):
        explanation.save("cat.gif")
    with pytest.raises(UsageError, match=r"an .npz file has no kind and no options of a picture"):
        explanation.save(tmp_path / "cat.npz", sign="signed")


def test_picture_options_are_checked(explanation):
    with pytest.raises(UsageError, match=r"unknown option 'opacty'; did you mean 'opacity'\?"):
        explanation.overlay(opacty=1)
    with pytest.raises(UsageError, match=r"unknown sign 'positve'; did you mean 'positive'\?"):
        explanation.overlay(sign="positve")
    with pytest.raises(UsageError, match=r"unknown kind 'xyz'; use overlay or heatmap or masked or figure"):
        explanation.overlay("xyz")
    for options in ({"clip": (90, 10)}, {"clip": 3}, {"opacity": 2}):
        with pytest.raises(UsageError, match=r"use clip=\(LOW, HIGH\) percentiles and an opacity from 0 to 1"):
            explanation.overlay(**options)
    assert set(RenderOptions.__dataclass_fields__) == {"clip", "sign", "reduce", "cmap", "opacity"}


def test_representations(classifier, pixels, explanation, tmp_path, monkeypatch):
    assert repr(explanation) == (
        f"Explanation({str(CAT)!r}, integrated-gradients, target 'espresso' 0.27, values (3, 32, 32))"
    )
    explanations = xplain.explain(classifier, [pixels, pixels], "saliency", target="cat")
    assert repr(explanations).splitlines()[1] == (
        "  Explanation('image 0', saliency, target 'cat' 0.23, values (3, 32, 32)),"
    )
    html = explanations._repr_html_()
    assert html.count('<img src="data:image/png;base64,') == 2
    assert "image 1<br>cat 0.23" in html
    paths = explanations.save(tmp_path)
    assert [path.name for path in paths] == ["0.image 0.saliency.overlay.png", "1.image 1.saliency.overlay.png"]
    assert [record["method"] for record in explanations.to_dict()] == ["saliency", "saliency"]
    assert explanations[1:][0] is explanations[1]
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image.size))
    explanations.show("overlay")
    assert shown == [(32, 32), (32, 32)]


def test_representation_has_the_warnings_of_one_line(explanation):
    for warnings, text in (
        (["the map is constant"], "warning: the map is constant"),
        (["the map is constant", "the gap is large"], "warning: the map is constant; the gap is large"),
        (["x" * 200], "1 warning"),
        (["x" * 100, "y" * 100], "2 warnings"),
    ):
        warned = replace(explanation, record=explanation.record | {"warnings": warnings})
        assert repr(warned).endswith(f", values (3, 32, 32), {text})")


def test_a_list_names_the_explanation_to_use(classifier, pixels, tmp_path):
    explanations = xplain.explain(classifier, pixels[None], "saliency")
    for name in ("target", "target_name", "record", "overlay"):
        message = f"a list of 1 explanation has no {name!r}; use explanations[0].{name}"
        with pytest.raises(AttributeError, match=re.escape(message)):
            getattr(explanations, name)
    with pytest.raises(AttributeError, match="'Explanations' object has no attribute 'targets'"):
        _ = explanations.targets
    path = tmp_path / "two.png"
    message = f"as the file {str(path)!r}; pass a folder, or save one of them: explanations[0].save({str(path)!r})"
    with pytest.raises(UsageError, match=re.escape(f"cannot save 1 explanation {message}")):
        explanations.save(path)
    assert not path.exists()
    path.mkdir()
    assert [saved.parent for saved in explanations.save(path)] == [path]
    assert len(copy.deepcopy(explanations)) == 1


def test_record_is_a_copy(explanation):
    explanation.to_dict()["target"]["index"] = 99
    assert explanation.target == 1


def test_pictures_are_enlarged_without_blur(explanation, tmp_path):
    small = np.asarray(explanation.overlay("heatmap"))
    expected = small.repeat(3, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(np.asarray(explanation.overlay("heatmap", scale=3)), expected)
    saved = Image.open(explanation.save(tmp_path / "a.png", "heatmap", scale=3))
    np.testing.assert_array_equal(np.asarray(saved), expected)
    for scale in (0, 65, 1.5, True):
        with pytest.raises(UsageError, match=f"invalid scale {scale!r}; use a whole number from 1 to 64"):
            explanation.overlay(scale=scale)
    with pytest.raises(UsageError, match=r"an .npz file has no kind and no options of a picture"):
        explanation.save(tmp_path / "a.npz", scale=2)
