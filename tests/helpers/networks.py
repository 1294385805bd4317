"""Small torchvision models with random weights whose activations neither vanish nor explode."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import pytest
import torch
from torch import nn

import xplain
from xplain.data.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {"inception_v3": 96, "densenet121": 64, "vit_b_16": 224}
OPTIONS = {name: {"transform_input": True, "init_weights": False} for name in ("inception_v3", "googlenet")}
OPTIONS["vgg11"] = {"init_weights": False}


@lru_cache(maxsize=4)
def torchvision_classifier(name: str) -> xplain.Classifier:
    """Return a torchvision model in evaluation mode, with batch norm statistics of random images."""
    models = pytest.importorskip("torchvision").models
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
        if name == "vgg11":  # its head has nine tenths of the weights and takes as much of the time
            sizes = (512 * 7 * 7, 64, 64, 1000)
            for index, shape in zip((0, 3, 6), pairwise(sizes), strict=True):
                model.classifier[index] = nn.Linear(*shape)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.2)
                module.train()
        side = SIZES.get(name, 64)
        with torch.no_grad():
            model(torch.randn(4, 3, max(side, 96), max(side, 96)))
    preprocessing = Preprocessing.for_size(side)
    return xplain.Classifier(model.eval(), name=name, mean=MEAN, std=STD, preprocessing=preprocessing).eval()


def smooth_images(name: str, count: int = 2) -> torch.Tensor:
    """Return random smooth images (count, 3, side, side) in [0, 1]."""
    side = SIZES.get(name, 64)
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(noise, size=(side, side), mode="bilinear")
