"""Models of every kind that xplain loads, with random weights, for images as small as they accept.

``hf:`` and ``clip:`` models are saved to a folder, and loaded from there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import xplain
from tests.helpers.hugging_face import make_random, save_model
from tests.helpers.hugging_face_families import FAMILIES, make_family

SIDE = 64  # image size in pixels, if the model accepts it
# Inception's unpadded convolutions need 107 pixels; the mixer's tokens are fixed.
LIBRARY_MODELS: dict[str, int] = {
    "efficientnet-lite0": SIDE,
    "alexnet": SIDE,
    "vgg11_bn": SIDE,
    "squeezenet1_1": SIDE,
    "resnet18": SIDE,
    "resnext50_32x4d": SIDE,
    "wide_resnet50_2": SIDE,
    "densenet121": SIDE,
    "googlenet": SIDE,
    "inception_v3": 107,
    "mobilenet_v2": SIDE,
    "mobilenet_v3_small": SIDE,
    "mnasnet0_5": SIDE,
    "shufflenet_v2_x0_5": SIDE,
    "efficientnet_b0": SIDE,
    "efficientnet_v2_s": SIDE,
    "regnet_y_400mf": SIDE,
    "convnext_tiny": SIDE,
    "vit_b_32": SIDE,
    "swin_t": SIDE,
    "swin_v2_t": SIDE,
    "timm:resnet10t": SIDE,
    "timm:vit_little_patch16_reg4_gap_256": SIDE,
    "timm:swin_tiny_patch4_window7_224": SIDE,
    "timm:mixer_s32_224": 224,
}
HUGGING_FACE = (
    "ViT DeiT Beit Dinov2 Dinov2WithRegisters Swin Swinv2 Hiera Levit PvtV2 Cvt Segformer FocalNet PoolFormer ConvNext ResNet "
    "RegNet MobileViT"
)
OWN_MODELS = "one_logit one_probability multi_label one_channel four_channels twelve_channels maxvit"
FACTORIES = "python:tests.helpers.small_models:"
TEXT_MODELS = ("hf:CLIP", "hf:SigLIP", "clip:ViT", "clip:ResNet")
PROMPTS = ["a cat", "a dog", "an owl"]
# Every model, and the side of its images in pixels.
MODELS: dict[str, int] = {
    **LIBRARY_MODELS,
    **{f"hf:{name}": FAMILIES[name][0] for name in HUGGING_FACE.split()},
    **dict.fromkeys(TEXT_MODELS, SIDE),
    **{f"python:{name}": 256 if name == "maxvit" else SIDE for name in OWN_MODELS.split()},
}
LOCATED_SIDE = 192  # image size at which the last maps of most models of a library have at least 6 x 6 cells

OPEN_CLIP_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
OPEN_CLIP_VISION: dict[str, dict[str, Any]] = {
    "ViT": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "ResNet": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
}


def load(name: str, folder: Path, side: int | None = None) -> xplain.Classifier:
    """Return a model of MODELS on the CPU. folder: for files of models. side: image size of a model of a library, or None."""
    if name in LIBRARY_MODELS:
        return xplain.load_classifier(name, device="cpu", weights="random", image_size=side or MODELS[name])
    kind, _, short = name.partition(":")
    if kind == "python":
        return xplain.load_classifier(FACTORIES + short, device="cpu")
    path = folder / f"{kind}-{short}"
    if not path.exists():
        _save(name, path)
    prompts = PROMPTS if name in TEXT_MODELS else ()
    return xplain.load_classifier(f"{kind}:{path}", device="cpu", prompts=prompts, image_size=side)


def located_side(name: str) -> int | None:
    """Return the image size at which the positions of the maps are checked, or None for that of MODELS."""
    if name == "hf:MobileViT":
        return 256
    return LOCATED_SIDE if LIBRARY_MODELS.get(name) in (SIDE, 107) else None


def _save(name: str, path: Path) -> None:
    """Save a model of Hugging Face or open_clip, with its tokenizer."""
    from tests.helpers import text_models

    path.mkdir(parents=True)
    kind, _, short = name.partition(":")
    if kind == "clip":
        _save_open_clip(short, path)
        return
    if short == "CLIP":
        text_models.make_clip_tokenizer(path).save_pretrained(path)
        model = text_models.make_clip()
    elif short == "SigLIP":
        text_models.make_siglip_tokenizer().save_pretrained(path)
        model = text_models.make_siglip()
    else:
        model = make_family(short)
    side = MODELS[name]
    save_model(path, model, {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}})


def _save_open_clip(architecture: str, path: Path) -> None:
    """Save a small model of open_clip with its configuration. Its tokenizer is part of open_clip."""
    import open_clip

    settings = {"embed_dim": 16, "vision_cfg": OPEN_CLIP_VISION[architecture], "text_cfg": OPEN_CLIP_TEXT}
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": preprocessing}))
    model = make_random(lambda _: open_clip.model.CLIP(**settings), None)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, path / "open_clip_model.safetensors")
