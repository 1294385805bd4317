"""Small transformers and their relatives with random weights, from torchvision, timm and transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import xplain
from xplain.data.preprocessing import Preprocessing

SIDE, CLASSES = 32, 5
TIMM_VIT = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
TIMM_SWIN = {"img_size": SIDE, "window_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4)}
TIMM_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)}
TOKENS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": SIDE, "patch_size": 8}
WINDOWS = {
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "image_size": SIDE,
    "patch_size": 4,
    "window_size": 4,
}
TEXT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 32, "vocab_size": 8}


class LogitsOnly(nn.Module):
    """A model of transformers, as a function of images to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(pixel_values=x).logits


class SequenceFirst(nn.Module):
    """Torch's encoder on tokens (N, rows, K), with the logits of the mean token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, 8)
        layer = nn.TransformerEncoderLayer(24, 3, 48, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.patches(x).flatten(2).permute(2, 0, 1)).mean(0))


def _timm(name: str, **options) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=CLASSES, **options)


def _hugging_face(name: str, config: str, **options) -> nn.Module:
    library = pytest.importorskip("transformers")
    if name in ("Siglip", "CLIP"):
        vision = options | {"projection_dim": 16}
        settings = getattr(library, config)(vision_config=vision, text_config=TEXT, num_labels=CLASSES)
    else:
        settings = getattr(library, config)(num_labels=CLASSES, **options)
    return LogitsOnly(getattr(library, f"{name}ForImageClassification")(settings))


def _torchvision(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision").models
    if name == "vit":
        return models.VisionTransformer(SIDE, 8, 2, 3, 24, 48, num_classes=CLASSES)
    if name == "convnext":
        block = models.convnext.CNBlockConfig
        return models.ConvNeXt([block(8, 16, 1), block(16, None, 2)], num_classes=CLASSES)
    parts = models.swin_transformer
    options = {}
    if name == "swin-v2":
        options = {"block": parts.SwinTransformerBlockV2, "downsample_layer": parts.PatchMergingV2}
    return models.SwinTransformer([4, 4], 12, [2, 2], [2, 4], [4, 4], num_classes=CLASSES, **options)


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "torchvision-vit": lambda: _torchvision("vit"),
    "torchvision-swin": lambda: _torchvision("swin"),
    "torchvision-swin-v2": lambda: _torchvision("swin-v2"),
    "torchvision-convnext": lambda: _torchvision("convnext"),
    "timm-vit": lambda: _timm("vit_tiny_patch16_224", **TIMM_VIT),
    "timm-vit-qk-norm": lambda: _timm("vit_tiny_patch16_224", qk_norm=True, init_values=0.1, reg_tokens=2, **TIMM_VIT),
    "timm-deit": lambda: _timm("deit_tiny_distilled_patch16_224", **TIMM_VIT),
    "timm-dino-v2": lambda: _timm("vit_small_patch14_dinov2", **TIMM_VIT),
    "timm-siglip": lambda: _timm("vit_base_patch16_siglip_224", **TIMM_VIT),
    "timm-swin": lambda: _timm("swin_tiny_patch4_window7_224", **TIMM_SWIN),
    "timm-convnext-v2": lambda: _timm("convnextv2_atto", **TIMM_CONVNEXT),
    "timm-eva": lambda: _timm("eva02_tiny_patch14_224", **TIMM_VIT),
    "transformers-vit": lambda: _hugging_face("ViT", "ViTConfig", intermediate_size=48, **TOKENS),
    "transformers-dino-v2": lambda: _hugging_face("Dinov2", "Dinov2Config", mlp_ratio=2, use_swiglu_ffn=True, **TOKENS),
    "transformers-siglip": lambda: _hugging_face("Siglip", "SiglipConfig", intermediate_size=48, **TOKENS),
    "transformers-clip": lambda: _hugging_face("CLIP", "CLIPConfig", intermediate_size=48, **TOKENS),
    "transformers-swin": lambda: _hugging_face("Swin", "SwinConfig", **WINDOWS),
    "transformers-convnext": lambda: _hugging_face(
        "ConvNext", "ConvNextConfig", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2
    ),
    "sequence-first": SequenceFirst,
}


@cache
def small_transformer(name: str) -> xplain.Classifier:
    """Return a classifier in float64 with random weights, biases, positions and class tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MAKERS[name]().double().eval()
        for parameter_name, parameter in network.named_parameters():
            is_vector = parameter.ndim <= 1 or any(
                part in parameter_name for part in ("token", "pos", "gamma", "scale")
            )
            if is_vector:
                parameter.data += 0.3 * torch.randn_like(parameter)
            else:
                parameter.data += torch.randn_like(parameter) * (0.5 / parameter[0].numel() ** 0.5)
    return xplain.Classifier(
        network, name=name, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), preprocessing=Preprocessing.for_size(SIDE)
    ).eval()


def small_images(count: int = 2) -> Tensor:
    """Return random images (count, 3, 32, 32) in float64."""
    return torch.rand(count, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
