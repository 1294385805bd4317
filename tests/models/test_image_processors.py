"""Image processors of Hugging Face as Preprocessing: pixels equal those of transformers' Pillow backend."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from xplain.core.errors import InputError
from xplain.data.preprocessing import Preprocessing, preprocess
from xplain.models.image_processors import default_processor, read_image_processor

transformers = pytest.importorskip("transformers")

SIZES = [(97, 130), (131, 97), (640, 371), (224, 224), (333, 500)]  # height, width

# Class without its suffix, and options of its processor.
EXACT = {
    "vit": ("ViT", {}),
    "vit-rectangle": ("ViT", {"size": {"height": 40, "width": 56}}),
    "vit-no-normalization": ("ViT", {"do_normalize": False}),
    "vit-no-rescale": ("ViT", {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}),
    "vit-lanczos": ("ViT", {"resample": 1}),
    "vit-box": ("ViT", {"resample": 4}),
    "vit-hamming": ("ViT", {"resample": 5}),
    "vit-nearest": ("ViT", {"resample": 0}),
    "beit": ("Beit", {}),
    "beit-crop": ("Beit", {"do_center_crop": True, "size": {"height": 256, "width": 256}}),
    "deit": ("DeiT", {}),
    "deit-other-ratio": ("DeiT", {"size": {"height": 80, "width": 90}, "crop_size": {"height": 64, "width": 64}}),
    "deit-larger-crop": ("DeiT", {"size": {"height": 61, "width": 64}, "crop_size": {"height": 64, "width": 70}}),
    "clip": ("CLIP", {}),
    "clip-number": ("CLIP", {"size": 96, "crop_size": 95}),
    "bit": ("Bit", {}),
    "convnext-224": ("ConvNext", {"size": {"shortest_edge": 224}}),
    "convnext-384": ("ConvNext", {}),
    "convnext-share": ("ConvNext", {"size": {"shortest_edge": 100}, "crop_pct": 0.95}),
    "levit": ("Levit", {}),
    "mobilenet-v1": ("MobileNetV1", {}),
    "mobilenet-v2": ("MobileNetV2", {}),
    "mobilevit": ("MobileViT", {}),
    "mobilevit-rgb": ("MobileViT", {"do_flip_channel_order": False}),
    "poolformer": ("PoolFormer", {}),
    "poolformer-square": ("PoolFormer", {"size": {"height": 90, "width": 90}, "crop_size": 80}),
    "poolformer-rectangle": ("PoolFormer", {"size": {"height": 90, "width": 99}, "crop_size": 80}),
    "poolformer-no-share": ("PoolFormer", {"crop_pct": None}),
    "pvt": ("Pvt", {}),
    "segformer": ("Segformer", {}),
    "siglip": ("Siglip", {}),
    "chinese-clip": ("ChineseCLIP", {}),
    "efficientnet": ("EfficientNet", {}),
    "efficientnet-offset": (
        "EfficientNet",
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False},
    ),
    "textnet-crop": ("TextNet", {"do_center_crop": True, "size": {"shortest_edge": 250}}),
}


def make_image(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def run_own(content: dict, image: Image.Image) -> torch.Tensor:
    """Return the values (3, H, W) that the network receives."""
    found = read_image_processor(content)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (found.mean, found.std))
    pixels = (preprocess(image, found.preprocessing).double() - mean) / std
    return pixels.flip(0) if found.is_bgr else pixels


@pytest.mark.parametrize("case", EXACT)
def test_pixels_equal_transformers(case):
    kind, options = EXACT[case]
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**options)
    content = {"image_processor_type": f"{kind}ImageProcessor", **options}
    for size in SIZES:
        image = make_image(*size)
        expected = processor(image, return_tensors="pt")["pixel_values"][0].double()
        torch.testing.assert_close(run_own(content, image), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("case", ["clip", "efficientnet-offset", "mobilevit", "poolformer"])
def test_saved_processor_equals_its_options(case):
    """``to_dict`` writes all values of a processor; options that are missing have the defaults of its class."""
    kind, options = EXACT[case]
    saved = getattr(transformers, f"{kind}ImageProcessorPil")(**options).to_dict()
    found = read_image_processor(saved)
    expected = read_image_processor({"feature_extractor_type": f"{kind}FeatureExtractor", **options})
    assert found.preprocessing == expected.preprocessing
    assert (found.is_bgr, found.notes) == (expected.is_bgr, ())
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    assert found.std == pytest.approx(expected.std, abs=1e-9)


@pytest.mark.parametrize(("height", "width"), [(501, 500), (500, 501), (97, 640), (256, 300)])
@pytest.mark.parametrize("divisor", [1, 32])
def test_pp_lcnet_geometry_equals_transformers(height, width, divisor):
    found = read_image_processor({"image_processor_type": "PPLCNetImageProcessor", "size_divisor": divisor})
    expected = transformers.PPLCNetImageProcessor().get_image_size(torch.zeros(3, height, width), 256, divisor)
    geometry = found.preprocessing.geometry(width, height)
    assert (geometry.height, geometry.width) == (expected.height, expected.width)
    assert (geometry.top, geometry.left) == ((expected.height - 224) // 2, (expected.width - 224) // 2)
    assert found.is_bgr
    assert found.mean == (0.406, 0.456, 0.485)


def test_rounding_of_crop_differs_from_torchvision():
    """A difference of 147 pixels: torchvision starts at 74, transformers at 73."""
    assert Preprocessing((224, 224), 224, crop="floor").geometry(371, 224).left == 73
    assert Preprocessing((224, 224), 224).geometry(371, 224).left == 74
    assert Preprocessing((64, 64), 61, crop="floor").geometry(61, 61).left == -2
    assert Preprocessing((64, 64), 61).geometry(61, 61).left == -1


SIZE_SPELLINGS = {
    "number": (96, ((96, 96), 96, True)),
    "pair": ([48, 96], ((48, 96), 96, True)),
    "height and width": ({"height": 48, "width": 96}, ((48, 96), 96, True)),
    "short side": ({"shortest_edge": 96}, ((96, 96), 96, False)),
    "short and long side": ({"shortest_edge": 96, "longest_edge": 200}, ((96, 96), 96, False)),
    "long side": ({"longest_edge": 200}, ((200, 200), 200, False)),
    "largest sides": ({"max_height": 90, "max_width": 120}, ((90, 90), 90, False)),
}


@pytest.mark.parametrize("spelling", SIZE_SPELLINGS)
def test_spellings_of_size(spelling):
    size, (sides, resize, squash) = SIZE_SPELLINGS[spelling]
    found = read_image_processor({"image_processor_type": "ViTImageProcessor", "size": size})
    assert found.preprocessing == Preprocessing(sides, resize, "bilinear", squash, crop="floor")
    varies = "the image processor keeps the whole image, whose size varies; here the center of the image is cropped"
    assert found.notes == ((varies,) if "side" in spelling else ())


def test_varying_size_is_that_of_the_model():
    content = {"image_processor_type": "ViTImageProcessor", "size": {"min_pixels": 100, "max_pixels": 1000}}
    assert read_image_processor(content, size=(64, 64)).preprocessing.size == (64, 64)


def test_values_of_fields():
    content = {
        "image_processor": {"image_processor_type": "ViTImageProcessorFast", "resample": "InterpolationMode.BICUBIC"}
    }
    assert read_image_processor(content).preprocessing.interpolation == "bicubic"
    assert read_image_processor({"image_mean": 0.25, "image_std": 0.5}).mean == (0.25,) * 3
    assert read_image_processor({"do_normalize": None}).std == (1.0,) * 3  # null is false
    assert read_image_processor({"image_mean": None}, "bit").mean == (0.48145466, 0.4578275, 0.40821073)
    found = read_image_processor({"do_resize": False}, size=(32, 48))
    assert found.preprocessing == Preprocessing((32, 48), 48, "bilinear", True, crop="floor")
    assert found.notes == ("the image processor does not resize images; here they are resized to 32 x 48",)


def test_unknown_class_and_missing_file_are_noted():
    found = read_image_processor({"image_processor_type": "OwnImageProcessor", "size": 32})
    assert found.notes == (
        "unknown image processor 'OwnImageProcessor'; its values are read as those of ViTImageProcessor",
    )
    assert found.preprocessing.size == (32, 32)
    found = default_processor((40, 60))
    assert found.preprocessing == Preprocessing((40, 60), 60, "bilinear", True, crop="floor")
    assert found.notes == (
        "the model has no preprocessor_config.json: images are resized to 40 x 60 and normalized by mean 0.5 and std 0.5",
    )


def test_perceiver_is_noted():
    found = read_image_processor({"image_processor_type": "PerceiverImageProcessor"})
    assert found.preprocessing == Preprocessing((224, 224), 256, "bicubic", crop="floor")
    assert found.notes == (
        "the image processor crops before it resizes; here images are resized first, which gives other pixels",
    )


INVALID = {
    "resample": ({"resample": 9}, "unknown resample 9"),
    "size": ({"size": {"edge": 5}}, "unknown size {'edge': 5}"),
    "negative": ({"size": -3}, "invalid size (-3, -3)"),
    "text": ({"size": "big"}, "dictionary update sequence element #0 has length 1; 2 is required"),
    "std": ({"image_std": [0.5, 0, 0.5]}, "image_mean (0.5, 0.5, 0.5) and image_std [0.5, 0, 0.5] do not fit"),
    "factor": ({"rescale_factor": 0}, "float division by zero"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_values_are_refused(case):
    content, reason = INVALID[case]
    with pytest.raises(InputError) as error:
        read_image_processor(content)
    assert str(error.value) == f"the image processor is invalid: {reason}; correct preprocessor_config.json"


@pytest.mark.parametrize(
    "content",
    [
        {"image_processor_type": "DonutImageProcessor"},
        {"image_processor_type": "ViTImageProcessor", "do_pad": True, "pad_size": {"height": 300, "width": 300}},
    ],
)
def test_padding_is_refused(content):
    with pytest.raises(InputError) as error:
        read_image_processor(content)
    assert str(error.value) == (
        "the image processor pads images (do_pad), which is not supported; set do_pad to false in preprocessor_config.json"
    )


def test_padding_without_effect_is_accepted():
    pad = {"height": 224, "width": 224}
    assert read_image_processor({"do_pad": True, "pad_size": pad}).preprocessing.size == (224, 224)


def test_describe_omits_defaults_of_new_fields():
    """Fingerprints of other models must not change."""
    assert Preprocessing().describe() == {
        "size": (224, 224),
        "resize": 256,
        "interpolation": "bicubic",
        "squash": False,
    }
    assert Preprocessing(crop="floor", divisor=2).describe() == {
        "size": (224, 224),
        "resize": 256,
        "interpolation": "bicubic",
        "squash": False,
        "crop": "floor",
        "divisor": 2,
    }


def test_resized_to_scales_both_sides():
    found = Preprocessing((64, 64), (80, 96)).resized_to(32)
    assert (found.size, found.resize) == ((32, 32), (40, 48))
