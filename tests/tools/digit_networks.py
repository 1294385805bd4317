"""A small vision transformer and a small ConvNeXt, trained on scikit-learn's digits in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.models import ConvNeXt, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

SIDE = 32  # of the images in pixels; a pixel of a digit becomes 4 x 4 pixels
DIGIT_SIDE = 8
TEST_IMAGES = 360
BATCH_SIZE = 64
LEARNING_RATE = 3e-3


@dataclass(frozen=True, eq=False)
class Digits:
    """Images (N, 1, 8, 8) in [0, 1] and labels (N,) to train and to test with."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def read_digits() -> Digits:
    """Return the digits, divided at random with a fixed seed."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.tensor(data.images[order] / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target[order])
    return Digits(images[TEST_IMAGES:], labels[TEST_IMAGES:], images[:TEST_IMAGES], labels[:TEST_IMAGES])


def enlarge(digits: Tensor) -> Tensor:
    """Return digits (N, 1, 8, 8) as RGB images (N, 3, 32, 32), by repeating their pixels."""
    repeats = SIDE // DIGIT_SIDE
    return digits.repeat_interleave(repeats, 2).repeat_interleave(repeats, 3).expand(-1, 3, -1, -1)


def make_vit() -> nn.Module:
    """Return an untrained vision transformer with 8 x 8 patches of 4 x 4 pixels.

    Its position embeddings start as large as the tokens, because it learns slowly from small ones.
    """
    network = VisionTransformer(
        image_size=SIDE, patch_size=4, num_layers=3, num_heads=4, hidden_dim=48, mlp_dim=96, num_classes=10
    )
    nn.init.normal_(network.encoder.pos_embedding)
    equalize_pixels(network.conv_proj)
    return network


def make_convnext() -> nn.Module:
    """Return an untrained ConvNeXt with feature maps of 8 x 8 and 4 x 4."""
    stages = [CNBlockConfig(48, 96, 2), CNBlockConfig(96, None, 2)]
    network = ConvNeXt(stages, stochastic_depth_prob=0.0, layer_scale=0.1, num_classes=10)
    equalize_pixels(network.features[0][0])
    return network


@torch.no_grad()
def equalize_pixels(convolution: nn.Conv2d) -> None:
    """Replace the kernels of a first layer by their means over pixels and channels.

    All pixels of a 4 x 4 patch and all channels have the same value, so that training cannot change the differences between the
    weights of a kernel. They would stay random, and add noise to the maps of gradients.
    """
    convolution.weight.copy_(convolution.weight.mean(dim=(1, 2, 3), keepdim=True).expand_as(convolution.weight))


def train(make: Callable[[], nn.Module], digits: Digits, epochs: int) -> nn.Module:
    """Return a network of ``make`` that is trained on the digits.

    The network has the attributes that xplain reads: size, mean, std and labels.
    """
    torch.manual_seed(0)
    network = make()
    images, labels = digits.train_images, digits.train_labels
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.05)
    steps = epochs * -(-len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(BATCH_SIZE):
            optimizer.zero_grad()
            logits = network(normalize(enlarge(images[index])))
            nn.functional.cross_entropy(logits, labels[index]).backward()
            optimizer.step()
            schedule.step()
    network.size, network.mean, network.std, network.labels = SIDE, [0.5], [0.5], [str(digit) for digit in range(10)]
    return network.eval()


def normalize(images: Tensor) -> Tensor:
    """Return images in [0, 1] as the networks receive them."""
    return (images - 0.5) / 0.5


@torch.no_grad()
def accuracy(network: nn.Module, digits: Digits) -> float:
    """Return the share of test digits that the network classifies correctly."""
    predicted = network(normalize(enlarge(digits.test_images))).argmax(dim=1)
    return float((predicted == digits.test_labels).float().mean())
