"""EfficientNet-Lite0, the embedded default: a small network of our own, so that neither torchvision nor timm is imported.

Tan and Le, EfficientNet (ICML 2019), in the Lite form of its authors: no squeeze-excite, ReLU6, fixed stem and
head. TensorFlow's "same" padding: what a stride-2 convolution needs is put on the right and the bottom first.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# (expansion, kernel, stride of the first block, channels out, blocks)
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


class Conv2dSame(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, which is symmetric only at stride 1."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K, ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, right = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        if x.device.type == "cpu":
            # A kernel with a row and a column of zeros in front pads evenly: images are not copied, measured faster by an eighth.
            weight = F.pad(self.weight, (right % 2, 0, down % 2, 0))
            return F.conv2d(x, weight, self.bias, self.stride, ((down + 1) // 2, (right + 1) // 2), groups=self.groups)
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


def conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias and its batch norm; odd kernels at stride 1 pad symmetrically by themselves."""
    if stride == 1:
        conv: nn.Module = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    else:
        conv = Conv2dSame(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=1e-3)]


class InvertedResidual(nn.Module):
    """Expand (1x1), depth-wise, project (1x1); the input is added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [*conv_norm(inputs, hidden), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*conv_norm(hidden, hidden, kernel, stride, groups=hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *depthwise, *conv_norm(hidden, outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return x + self.layers(x) if self.residual else self.layers(x)


class EfficientNetLite0(nn.Module):
    """Normalised images (B, 3, H, W) to logits (B, classes)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 32, 3, 2), nn.ReLU6())
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, kernel, stride, outputs, repeats in STAGES:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, expansion, kernel, stride if repeat == 0 else 1))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*conv_norm(channels, 1280), nn.ReLU6())
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits; the features are averaged over space before the last layer."""
        return self.classifier(self.head(self.blocks(self.stem(x))).mean(dim=(2, 3)))
