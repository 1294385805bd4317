"""The default values of the image processor classes of transformers 5."""

from __future__ import annotations

from typing import Any

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _short(side: int) -> dict[str, int]:
    return {"shortest_edge": side}


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


# Defaults of all processors, and of each class where it differs.
BASE: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_pad": False,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
    "size": _square(224),
    "crop_size": _square(224),
    "default_to_square": True,
    "resample": 3,
}
_CLIP = {
    "size": _short(224),
    "default_to_square": False,
    "do_center_crop": True,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
}
_IMAGENET = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
_MOBILENET = {"size": _short(256), "default_to_square": False, "do_center_crop": True, "resample": 2}
DEFAULTS: dict[str, dict[str, Any]] = {
    "Beit": {},
    "Bit": _CLIP,
    "CLIP": _CLIP,
    "ChineseCLIP": _CLIP,
    "ConvNext": {"size": _short(384), "default_to_square": False, "crop_pct": 224 / 256},
    "DeiT": {"size": _square(256), "do_center_crop": True},
    "Donut": {"size": {"height": 2560, "width": 1920}, "do_pad": True, "do_thumbnail": True, "resample": 2},
    "EfficientNet": {
        "size": _square(346),
        "crop_size": _square(289),
        "include_top": True,
        "rescale_offset": False,
    },
    "Levit": {"size": _short(224), "default_to_square": False, "do_center_crop": True, **_IMAGENET},
    "MobileNetV1": _MOBILENET,
    "MobileNetV2": _MOBILENET,
    "MobileViT": {
        "size": _short(224),
        "crop_size": _square(256),
        "default_to_square": False,
        "do_center_crop": True,
        "do_flip_channel_order": True,
    },
    "Perceiver": {"crop_size": _square(256), "do_center_crop": True, **_IMAGENET},
    "PoolFormer": {
        "size": _short(224),
        "default_to_square": False,
        "do_center_crop": True,
        "crop_pct": 0.9,
        **_IMAGENET,
    },
    "PPLCNet": {
        "size": _square(256),
        "do_center_crop": True,
        "resize_short": 256,
        "size_divisor": 1,
        "resample": 2,
        "image_mean": IMAGENET_MEAN[::-1],
        "image_std": (0.225, 0.224, 0.229),
    },
    "Pvt": _IMAGENET,
    "Segformer": {"size": _square(512), "resample": 2, **_IMAGENET},
    "Siglip": {"default_to_square": False},
    "Siglip2": {"size": None, "resample": 2},
    "TextNet": {
        "size": _short(640),
        "default_to_square": False,
        "resample": 2,
        "size_divisor": 32,
        **_IMAGENET,
    },
    "ViT": {"resample": 2},
}
# Classes of processors by model type, for files that do not name their class.
BY_MODEL_TYPE = {
    "align": "EfficientNet",
    "altclip": "CLIP",
    "beit": "Beit",
    "bit": "Bit",
    "chinese_clip": "ChineseCLIP",
    "clip": "CLIP",
    "convnext": "ConvNext",
    "convnextv2": "ConvNext",
    "cvt": "ConvNext",
    "data2vec-vision": "Beit",
    "deit": "DeiT",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "donut-swin": "Donut",
    "efficientnet": "EfficientNet",
    "focalnet": "Bit",
    "hiera": "Bit",
    "levit": "Levit",
    "metaclip_2": "CLIP",
    "mobilenet_v1": "MobileNetV1",
    "mobilenet_v2": "MobileNetV2",
    "mobilevit": "MobileViT",
    "mobilevitv2": "MobileViT",
    "perceiver": "Perceiver",
    "poolformer": "PoolFormer",
    "pp_lcnet": "PPLCNet",
    "pvt": "Pvt",
    "pvt_v2": "Pvt",
    "regnet": "ConvNext",
    "resnet": "ConvNext",
    "segformer": "Segformer",
    "siglip": "Siglip",
    "siglip2": "Siglip2",
    "textnet": "TextNet",
}
