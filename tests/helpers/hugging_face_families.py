"""Small versions of the families of Hugging Face's image classifiers, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.helpers.hugging_face import make_random

CLASSES = 5
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {**SMALL, "image_size": 64, "patch_size": 8}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
# The image size and the configuration of each family, by the prefix of its classes.
FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {
    "ViT": (64, PATCHES),
    "ViTMSN": (64, PATCHES),
    "DeiT": (64, PATCHES),
    "Beit": (64, PATCHES),
    "Data2VecVision": (64, PATCHES),
    "Dinov2": (64, {k: v for k, v in PATCHES.items() if k != "intermediate_size"}),
    "Dinov2WithRegisters": (64, {k: v for k, v in PATCHES.items() if k != "intermediate_size"}),
    "IJepa": (64, PATCHES),
    "Swin": (64, SWIN),
    "Swinv2": (64, SWIN),
    "DonutSwin": (64, SWIN),
    "Hiera": (224, {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]}),
    "Levit": (
        224,
        {"hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1], "key_dim": [8, 8, 8]},
    ),
    "Pvt": (
        128,
        {
            "image_size": 128,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
        },
    ),
    "PvtV2": (
        128,
        {
            "image_size": 128,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
        },
    ),
    "Cvt": (128, {"embed_dim": [16, 24, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}),
    "Segformer": (
        128,
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
    ),
    "FocalNet": (
        128,
        {"image_size": 128, "embed_dim": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    ),
    "PoolFormer": (128, {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "ConvNext": (128, {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "ConvNextV2": (128, {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "Bit": (128, {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]}),
    "ResNet": (128, {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "RegNet": (
        128,
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "groups_width": 8},
    ),
    "MobileViT": (128, {"image_size": 128, "num_hidden_layers": 1}),
    "MobileNetV1": (128, {"image_size": 128}),
    "MobileNetV2": (128, {"image_size": 128}),
    "EfficientNet": (
        128,
        {"image_size": 128, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    ),
    "SwiftFormer": (128, {"image_size": 128, "embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "TextNet": (128, {}),
    "HGNetV2": (128, {}),
    "PPLCNet": (128, {}),
}


def make_family(name: str) -> nn.Module:
    """Return the image classifier ``<name>ForImageClassification`` with CLASSES classes."""
    import transformers

    side, options = FAMILIES[name]
    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **options)
    model = make_random(getattr(transformers, f"{name}ForImageClassification"), config)
    measure_statistics(model, side)
    return model


@torch.no_grad()
def measure_statistics(model: nn.Module, side: int) -> None:
    """Set the statistics of batch normalization to those of noise, without which deep networks hardly depend on the image."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = None  # average
        norm.reset_running_stats()
        norm.train()
    model(torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0)))
    model.eval()
