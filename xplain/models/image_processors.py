"""Convert the image processor of a Hugging Face model, read as data, to a Preprocessing and the mean and std of its pixels.

The processor's code is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from xplain.core.errors import InputError
from xplain.data.preprocessing import MAX_SIDE, Interpolation, Preprocessing
from xplain.models.image_processor_defaults import BASE, BY_MODEL_TYPE, DEFAULTS

Content = Mapping[str, Any]

TYPE_SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
# Numbers of Pillow's resampling filters.
RESAMPLING: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
CONVNEXT_MIN_SQUASH = 384  # from this side on, ConvNeXt's processor does not crop


@dataclass(frozen=True)
class ImageProcessor:
    """How a model's images are prepared: geometry, then (x - mean) / std, then the order of the channels.

    is_bgr: the network takes blue, green, red; mean and std are in the order red, green, blue.
    notes: where the preprocessing differs from the processor's.
    """

    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_bgr: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetSize:
    """The size to which a processor resizes.

    kind: exact (height, width), a short side, or a size that depends on the image, for which ``sides`` is a substitute.
    """

    kind: Literal["exact", "short", "varying"]
    sides: tuple[int, int]


def default_processor(size: tuple[int, int] | None) -> ImageProcessor:
    """Return the processor of a model without a processor file."""
    height, width = size or (224, 224)
    preprocessing = Preprocessing((height, width), max(height, width), "bilinear", squash=True, crop="floor")
    note = (
        "the model has no preprocessor_config.json: "
        f"images are resized to {height} x {width} and normalized by mean 0.5 and std 0.5"
    )
    return ImageProcessor(preprocessing, (0.5,) * 3, (0.5,) * 3, notes=(note,))


def read_image_processor(content: Content, model_type: str = "", size: tuple[int, int] | None = None) -> ImageProcessor:
    """Return the preprocessing that the content of preprocessor_config.json or processor_config.json describes.

    model_type: type of the model, which decides the class of a processor without one.
    size: the model's (height, width), for processors whose output depends on the image.
    Raises InputError if the values are invalid, or if the processor pads images.
    """
    inner = content.get("image_processor")
    content = inner if isinstance(inner, Mapping) else content
    notes = []
    kind, note = _find_class(content, model_type)
    if note:
        notes.append(note)
    values = dict(BASE | DEFAULTS[kind])
    values.update({key: value for key, value in content.items() if value is not None or key not in BASE})
    values.update({key: False for key in BASE if key.startswith("do_") and content.get(key, True) is None})
    try:
        preprocessing, note = _make_preprocessing(kind, values, size)
        mean, std = _read_normalization(kind, values)
    except (TypeError, ValueError, KeyError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"the image processor is invalid: {error}", "correct preprocessor_config.json") from None
    if note:
        notes.append(note)
    _check_padding(kind, values, preprocessing)
    is_bgr = kind == "PPLCNet" or (kind == "MobileViT" and bool(values["do_flip_channel_order"]))
    return ImageProcessor(preprocessing, mean, std, is_bgr, tuple(notes))


def _find_class(content: Content, model_type: str) -> tuple[str, str]:
    """Return the class of a processor without its suffix, and a note if the class is unknown."""
    name = content.get("image_processor_type") or content.get("feature_extractor_type")
    if not isinstance(name, str):
        return BY_MODEL_TYPE.get(model_type, "ViT"), ""
    kind = next((name.removesuffix(suffix) for suffix in TYPE_SUFFIXES if name.endswith(suffix)), name)
    if kind in DEFAULTS:
        return kind, ""
    return "ViT", f"unknown image processor {name!r}; its values are read as those of ViTImageProcessor"


def _make_preprocessing(kind: str, values: Content, size: tuple[int, int] | None) -> tuple[Preprocessing, str]:
    """Return the geometry of a processor, and a note if it differs from the processor's."""
    interpolation = _read_interpolation(values["resample"])
    crop = _read_crop(values["crop_size"]) if values["do_center_crop"] else None
    if not values["do_resize"]:
        return _without_resize(crop, size, interpolation)
    target = _read_size(values["size"], square=bool(values["default_to_square"]), fallback=size)
    side = target.sides[0]
    if kind == "ConvNext" and target.kind == "short":
        is_cropped = side < CONVNEXT_MIN_SQUASH
        resize = int(side / values["crop_pct"]) if is_cropped else side
        return Preprocessing((side, side), resize, interpolation, squash=not is_cropped, crop="floor"), ""
    if kind == "Levit" and target.kind == "short":
        target = TargetSize("short", (int(256 / 224 * side),) * 2)
    if kind == "PoolFormer" and values.get("crop_pct"):
        target = _scale_by_crop(target, values["crop_pct"])
    if kind == "PPLCNet" and values.get("resize_short"):
        return _short_rounded(values, crop, interpolation), ""
    if kind == "Perceiver" and crop is not None:
        note = "the image processor crops before it resizes; here images are resized first, which gives other pixels"
        return Preprocessing(target.sides, max(crop), interpolation, crop="floor"), note
    divisor = int(values["size_divisor"]) if kind == "TextNet" else 1
    return _crop_target(target, crop, interpolation, divisor, is_thumbnail=bool(values.get("do_thumbnail")))


def _crop_target(
    target: TargetSize, crop: tuple[int, int] | None, interpolation: Interpolation, divisor: int, *, is_thumbnail: bool
) -> tuple[Preprocessing, str]:
    """Return the geometry of a processor that resizes to ``target`` and then crops, and a note if the size would vary."""
    height, width = target.sides
    if target.kind == "exact" and crop is None and not is_thumbnail:
        return Preprocessing(target.sides, max(target.sides), interpolation, squash=True, crop="floor"), ""
    if target.kind == "exact" and crop is not None:
        if height * crop[1] == width * crop[0]:
            return Preprocessing(crop, max(target.sides), interpolation, squash=True, crop="floor"), ""
        return Preprocessing(crop, target.sides, interpolation, crop="floor"), ""
    if crop is not None:
        return Preprocessing(crop, min(height, width), interpolation, crop="floor", divisor=divisor), ""
    note = "the image processor keeps the whole image, whose size varies; here the center of the image is cropped"
    return Preprocessing(target.sides, min(height, width), interpolation, crop="floor", divisor=divisor), note


def _without_resize(
    crop: tuple[int, int] | None, size: tuple[int, int] | None, interpolation: Interpolation
) -> tuple[Preprocessing, str]:
    sides = crop or size or (224, 224)
    note = f"the image processor does not resize images; here they are resized to {sides[0]} x {sides[1]}"
    return Preprocessing(sides, max(sides), interpolation, squash=True, crop="floor"), note


def _scale_by_crop(target: TargetSize, share: float) -> TargetSize:
    """Return the size before a crop that keeps ``share`` of the image. PoolFormer resizes the short side to squares, too."""
    height, width = (int(side / share) for side in target.sides)
    is_exact = target.kind == "exact" and target.sides[0] != target.sides[1]
    return TargetSize("exact" if is_exact else "short", (height, width))


def _short_rounded(values: Content, crop: tuple[int, int] | None, interpolation: Interpolation) -> Preprocessing:
    """Return the geometry of a processor that rounds the long side and makes both sides divisible by a number."""
    short, divisor = int(values["resize_short"]), int(values["size_divisor"] or 1)
    sides = crop or (short, short)
    return Preprocessing(sides, short, interpolation, crop="floor", long_side="round", divisor=divisor)


def _read_interpolation(value: Any) -> Interpolation:
    """Return the interpolation of a number of Pillow, or of a name such as ``bicubic`` or ``InterpolationMode.BICUBIC``."""
    if isinstance(value, str):
        name = value.rpartition(".")[2].lower()
        matches: list[Interpolation] = [known for known in RESAMPLING.values() if known == name]
        if matches:
            return matches[0]
    elif isinstance(value, int) and int(value) in RESAMPLING:
        return RESAMPLING[int(value)]
    raise ValueError(f"unknown resample {value!r}")


def _read_crop(value: Any) -> tuple[int, int]:
    """Return the (height, width) of a crop."""
    return _read_size(value, square=True, fallback=None).sides


def _read_size(value: Any, *, square: bool, fallback: tuple[int, int] | None) -> TargetSize:
    """Return the size that a processor's ``size`` or ``crop_size`` means.

    square: a single number means a square, not the short side. fallback: substitute for a size that depends on the image.
    """
    if isinstance(value, int):
        return TargetSize("exact" if square else "short", _check_sides(value, value))
    if isinstance(value, list | tuple):
        height, width = value
        return TargetSize("exact", _check_sides(height, width))
    given = {key: side for key, side in dict(value or {}).items() if side is not None}
    if {"height", "width"} <= given.keys():
        return TargetSize("exact", _check_sides(given["height"], given["width"]))
    if given.keys() == {"shortest_edge"}:
        return TargetSize("short", _check_sides(given["shortest_edge"], given["shortest_edge"]))
    side = given.get("shortest_edge") or given.get("longest_edge")
    if {"max_height", "max_width"} <= given.keys():
        side = min(given["max_height"], given["max_width"])
    if side is None and fallback is None:
        raise ValueError(f"unknown size {value!r}")
    return TargetSize("varying", fallback or _check_sides(side, side))


def _check_sides(height: Any, width: Any) -> tuple[int, int]:
    sides = int(height), int(width)
    if not 1 <= min(sides) <= max(sides) <= MAX_SIDE:
        raise ValueError(f"invalid size {sides}")
    return sides


def _read_normalization(kind: str, values: Content) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std so that (x - mean) / std, for pixels x in [0, 1], are the values that the processor computes."""
    factor = 255 * float(values["rescale_factor"]) if values["do_rescale"] else 255.0
    if abs(factor - 1) < 1e-9:
        factor = 1.0
    offset = 1.0 if values["do_rescale"] and values.get("rescale_offset") else 0.0
    std = _read_channels(values["image_std"])
    scale = (1.0,) * len(std)
    mean = (0.0,) * len(std)
    if values["do_normalize"] and kind != "MobileViT":
        mean, scale = _read_channels(values["image_mean"]), std
    if values.get("include_top"):  # EfficientNet divides by the std once more
        scale = tuple(first * second for first, second in zip(scale, std, strict=True))
    if not all(scale) or len(mean) != len(scale):
        raise ValueError(f"image_mean {values['image_mean']!r} and image_std {values['image_std']!r} do not fit")
    mean = tuple((offset + value) / factor for value in mean)
    return mean, tuple(value / factor for value in scale)


def _read_channels(value: Any) -> tuple[float, ...]:
    """Return a value per channel. A single number applies to all three."""
    if isinstance(value, int | float):
        return (float(value),) * 3
    return tuple(float(number) for number in value)


def _check_padding(kind: str, values: Content, preprocessing: Preprocessing) -> None:
    """Raise InputError if the processor pads images to another size than the model's input."""
    if not values["do_pad"]:
        return
    pad = values.get("pad_size")
    if kind != "Donut" and (pad is None or _read_crop(pad) == preprocessing.size):
        return
    raise InputError(
        "the image processor pads images (do_pad), which is not supported",
        "set do_pad to false in preprocessor_config.json",
    )
