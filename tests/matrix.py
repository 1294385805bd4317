"""Every method on a small model of every family, random weights: ``python -m tests.matrix`` makes the README's table of what fits.

A pair either gives a finite map of the image's size or is refused in one line; anything else ends the script with the pair's name.
Names after the command choose families, for a sample.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torchvision import models

import xplain
from tests.readme import README, put
from xplain.answers import Probe
from xplain.catalog import try_methods
from xplain.errors import XplainError
from xplain.oracle import Oracle
from xplain.registry import METHODS
from xplain.types import Attribution

CLASSES = 10
SIDE = 64
CHANNELS = 4  # that Score-CAM looks through, for it asks one forward of each


def named(name: str, **options: Any) -> nn.Module:
    """A torchvision model by its name."""
    return models.get_model(name, num_classes=CLASSES, **options)


def resnet(**options: Any) -> nn.Module:
    """ResNet-14 with bottlenecks, and its relatives."""
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=CLASSES, **options)


def convnext() -> nn.Module:
    """Two stages of two blocks."""
    stages = [models.convnext.CNBlockConfig(24, 48, 2), models.convnext.CNBlockConfig(48, None, 2)]
    return models.ConvNeXt(stages, num_classes=CLASSES)


def vit() -> nn.Module:
    """Three layers on 4 x 4 patches."""
    net = models.VisionTransformer(SIDE, 16, 3, 4, 64, 128, num_classes=CLASSES)
    nn.init.normal_(net.heads.head.weight, std=0.02)  # zero at first
    return net


def swin(**options: Any) -> nn.Module:
    """Two stages of two blocks, windows of 4 x 4."""
    return models.SwinTransformer([4, 4], 24, [2, 2], [2, 2], [4, 4], num_classes=CLASSES, **options)


def maxvit() -> nn.Module:
    """Two blocks, windows and grids of 4 x 4."""
    return models.MaxVit((SIDE, SIDE), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=CLASSES)


def timm(name: str, **options: Any) -> nn.Module:
    """A timm model by its name."""
    import timm

    return timm.create_model(name, num_classes=CLASSES, **options)


PLAIN = {"init_weights": False}  # the builder's own draw takes minutes
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "AlexNet": partial(named, "alexnet"),
    "VGG": partial(named, "vgg11_bn", **PLAIN),
    "SqueezeNet": partial(named, "squeezenet1_1"),
    "ResNet": partial(named, "resnet18"),
    "ResNeXt": partial(resnet, groups=32, width_per_group=4),
    "Wide ResNet": partial(resnet, width_per_group=128),
    "DenseNet": partial(models.DenseNet, 16, (2, 2, 2, 2), 32, num_classes=CLASSES),
    "GoogLeNet": partial(named, "googlenet", aux_logits=False, **PLAIN),
    "Inception": partial(named, "inception_v3", aux_logits=False, **PLAIN),
    "MobileNetV2": partial(named, "mobilenet_v2", width_mult=0.5),
    "MobileNetV3": partial(named, "mobilenet_v3_small"),
    "MNASNet": partial(named, "mnasnet0_5"),
    "ShuffleNetV2": partial(named, "shufflenet_v2_x0_5"),
    "EfficientNet": partial(named, "efficientnet_b0"),
    "EfficientNetV2": partial(named, "efficientnet_v2_s"),
    "RegNet": partial(named, "regnet_y_400mf"),
    "ConvNeXt": convnext,
    "ViT": vit,
    "Swin": swin,
    "Swin V2": partial(
        swin,
        block=models.swin_transformer.SwinTransformerBlockV2,
        downsample_layer=models.swin_transformer.PatchMergingV2,
    ),
    "MaxViT": maxvit,
    "timm ResNet": partial(timm, "resnet10t"),
    "timm ViT, registers": partial(
        timm,
        "vit_tiny_patch16_224",
        img_size=SIDE,
        depth=3,
        embed_dim=64,
        num_heads=4,
        reg_tokens=4,
        no_embed_class=True,
    ),
    "timm Swin": partial(
        timm,
        "swin_tiny_patch4_window7_224",
        img_size=SIDE,
        window_size=4,
        depths=(2, 2),
        num_heads=(2, 2),
        embed_dim=24,
    ),
    "timm Mixer": partial(timm, "mixer_s32_224", img_size=SIDE),
}
SIDES = {"Inception": 107}  # the least that its unpadded convolutions leave a map of


def try_family(name: str) -> Iterator[tuple[str, str]]:
    """(method, "" or why it refuses) on a model of the family. Raises AssertionError for a map that breaks the contract."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[name]()
    model.size = SIDES.get(name, SIDE)
    classifier = xplain.load_classifier(model, device="cpu")
    shapes = {(1, channels, *classifier.size) for channels in (1, 3)}
    with few_channels():
        for method, found in try_methods(classifier):
            pair = f"{method} on {name}"
            if isinstance(found, Attribution):
                assert tuple(found.values.shape) in shapes, pair
                assert bool(found.values.isfinite().all()), pair
                yield method, ""
            else:
                assert isinstance(found, XplainError), pair
                assert str(found), pair
                assert "\n" not in str(found), pair
                yield method, str(found)


@contextmanager
def few_channels() -> Iterator[None]:
    """Score-CAM, which alone reads layers without gradients, sees few of their channels."""
    honest = Oracle.probe

    def probe(oracle: Oracle, *arguments: Any, differentiate: bool = True) -> Probe:
        found = honest(oracle, *arguments, differentiate=differentiate)
        return found if differentiate else Probe(found.activations[:, :CHANNELS], found.gradients, found.layer)

    with patch.object(Oracle, "probe", probe):
        yield


def table(found: dict[str, dict[str, str]]) -> str:
    """Families that every method fits, then for each other family the methods that refuse it. found: family, method, why."""
    refusals = {family: [method for method, why in pairs.items() if why] for family, pairs in found.items()}
    rows: dict[str, list[str]] = {}
    for family, methods in refusals.items():
        rows.setdefault(", ".join(f"`{each}`" for each in methods) or "none", []).append(family)
    lines = ["| families | methods that refuse them |", "|---|---|"]
    lines += [f"| {', '.join(families)} | {methods} |" for methods, families in rows.items()]
    return "\n".join(lines)


def main(names: list[str]) -> int:
    """Print every pair as it is tried; with all families, put the table into the README."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, str]] = {}
    for name in names or FAMILIES:
        found[name] = {}
        for method, why in try_family(name):
            found[name][method] = why
            print(name, method, why or "fits", sep="\t", flush=True)
        assert len(found[name]) == len(list(METHODS))
    print(table(found))
    if not names:
        README.write_text(put(README.read_text("utf-8"), "fits", table(found)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
