"""Classifier: images in [0, 1] to logits, with the normalization inside; find the logits in a model's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError
from xplain.data.class_names import ClassNames
from xplain.data.preprocessing import Preprocessing
from xplain.models.black_box import BlackBox
from xplain.models.outputs import OutputKind

# Weights of red, green and blue in gray: ITU-R 601, as in Pillow.
LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)

IMAGES_HINT = "pass pixels in [0, 1] as a float tensor with a batch dimension"


@dataclass(frozen=True)
class Weights:
    """Origin of the parameters.

    source: a file or the name of a model. sha256: of the file, or of the parameters if they come from no file.
    """

    source: str
    sha256: str = ""


@dataclass(frozen=True)
class Accuracy:
    """Published top-1 accuracy of the weights on the ImageNet validation set, from 0 to 1, and its source."""

    top1: float
    source: str


class Classifier(nn.Module):
    """A network with its normalization, preprocessing and class names. Call it to get logits (B, classes) of images in [0, 1].

    Use ``load_classifier`` to create one.

    model: the network; maps images normalized by (x - mean) / std to logits (B, classes).
    size: input height and width in pixels.
    preprocessing: how images are resized and cropped to ``size``.
    weights: source and SHA-256 of the parameters.
    accuracy: the published top-1 accuracy of the weights, or None.
    channels: input channels of the network, 3 or 1. A network of one channel receives the gray value of the pixels.
    classes: the number of classes, or None if unknown.
    probabilities: the network ends in a softmax; the logits are the logarithm of its output.
    output: the meaning of the logits: softmax, sigmoid, binary or none.
    differentiable: whether the logits have gradients with respect to the images.
    labels: class names by index, empty if unknown.
    wnids: WordNet ids by index, empty if unknown.
    texts: the texts of each class of a zero-shot classifier, empty for other models.
    notes: the assumptions made about the network, as text for the user.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        labels: Sequence[str] = (),
        wnids: Sequence[str] = (),
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        preprocessing: Preprocessing | None = None,
        weights: Weights | None = None,
        accuracy: Accuracy | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self.labels = list(labels)
        self.wnids = list(wnids)
        self.preprocessing = preprocessing or Preprocessing()
        self.weights = weights or Weights(name)
        self.accuracy = accuracy
        self.memory_format = torch.contiguous_format  # inference copies may use channels_last
        self.channels = len(mean) or 3
        self.classes: int | None = None
        self.probabilities = False
        self.output = OutputKind()
        self.texts: Sequence[Sequence[str]] = ()
        self.differentiable = not self.is_black_box
        self.notes: list[str] = []
        mean = mean or (0.0,) * 3
        std = std or (1.0,) * len(mean)
        float_parameters = (parameter for parameter in model.parameters() if parameter.is_floating_point())
        first = next(float_parameters, torch.empty(0))
        for key, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor(list(values), dtype=torch.float64).to(first.dtype)
            self.register_buffer(key, tensor[:, None, None], persistent=False)
        self.to(first.device)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) in [0, 1]. Raises UsageError unless they are floating point.

        The values are not checked, because attacks and noise leave [0, 1].
        """
        self._check_images(images)
        logits = find_logits(self.run_network(images))[0]
        if not self.probabilities:
            return logits
        return logits.clamp(min=torch.finfo(logits.dtype).tiny).log()

    def _check_images(self, images: object) -> None:
        """Raise UsageError unless the images are a floating-point tensor (B, C, H, W) with channels that the model accepts."""
        if not isinstance(images, Tensor):
            raise UsageError(f"the images are of type {type(images).__name__}, not a tensor", IMAGES_HINT)
        if images.ndim != 4 or not images.is_floating_point():
            actual = f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
            raise UsageError(f"images must be a floating-point tensor of shape (B, C, H, W), got {actual}", IMAGES_HINT)
        if images.shape[1] not in (3, len(self.mean), self.channels):
            message = f"images {tuple(images.shape)} have {images.shape[1]} channels, not 3"
            raise UsageError(message, "pass images with red, green and blue, channels first")
        if images.device != self.device:
            raise UsageError(
                f"the images are on {images.device}, the model on {self.device}", "use images.to(classifier.device)"
            )

    def run_network(self, images: Tensor) -> object:
        """Return the output of the network, of any type, for images (B, C, H, W) in [0, 1]."""
        pixels = (images.to(self.mean.dtype) - self.mean) / self.std
        if self.channels == 1 and pixels.shape[1] == 3:
            pixels = (pixels * LUMA.to(pixels)[:, None, None]).sum(dim=1, keepdim=True)
        return self.model(pixels)

    def to_memory_format(self, images: Tensor) -> Tensor:
        """Convert images to the memory format of the network, contiguous or channels last."""
        return images.contiguous(memory_format=self.memory_format)

    @property
    def size(self) -> tuple[int, int]:
        """Input height and width in pixels."""
        return self.preprocessing.size

    @property
    def is_black_box(self) -> bool:
        """Whether the model can only be called: it is an ONNX graph or a function, and has no layers and parameters."""
        return isinstance(self.model, BlackBox)

    def rows_run(self, rows: int) -> int:
        """Return how many rows the model runs for a batch of ``rows`` images. It is more if the model has a fixed batch size."""
        return self.model.rows_run(rows) if isinstance(self.model, BlackBox) else rows

    @property
    def is_normalized(self) -> bool:
        """Whether the normalization changes the pixels."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point dtype of the parameters."""
        return self.mean.dtype

    @property
    def class_names(self) -> ClassNames:
        """Names and WordNet ids of the classes, for lookup."""
        return ClassNames(self.labels, self.wnids, self.classes, self.name)


def find_wrapped_classifier(value: object) -> Classifier | None:
    """Return a classifier, or the classifier inside a wrapper such as torch.compile or DataParallel; None for anything else."""
    candidates = (value, getattr(value, "_orig_mod", None), getattr(value, "module", None))
    return next((candidate for candidate in candidates if isinstance(candidate, Classifier)), None)


def find_logits(output: object) -> tuple[Tensor, str]:
    """Return the logits (B, classes) in a model's output, and their key: an index, a name, or ``""`` for the output itself.

    The entry called ``logits`` comes first, then the first matching tensor of a tuple or list, or the only one of a mapping or
    dataclass. Raises InputError if there is none, or if a mapping or dataclass has several.
    """
    logits = _as_logits(output)
    if logits is not None:
        return logits, ""
    candidates: dict[str, Tensor] = {}
    for name, value in _named_entries(output).items():
        logits = _as_logits(value)
        if logits is not None:
            candidates[name] = logits
    if "logits" in candidates:
        return candidates["logits"], "logits"
    if candidates and (len(candidates) == 1 or isinstance(output, (tuple, list))):
        first = next(iter(candidates))
        return candidates[first], first
    raise _logits_error(output, list(candidates))


def _as_logits(value: object) -> Tensor | None:
    """Return a tensor (B, classes) or (B, classes, 1, 1) as (B, classes); None for any other value."""
    if not isinstance(value, Tensor) or value.ndim < 2 or not value.is_floating_point():
        return None
    if any(side != 1 for side in value.shape[2:]):
        return None
    return value.flatten(1)


def _named_entries(output: object) -> dict[str, object]:
    """Return the entries of a mapping, named tuple, tuple, list or dataclass by name or index."""
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, (tuple, list)):
        return {str(index): value for index, value in enumerate(output)}
    if is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    return {}


def _logits_error(output: object, candidates: Sequence[str]) -> InputError:
    description = str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__
    hint = "use an image classifier"
    if candidates:
        description += f" with {' and '.join(candidates)}"
        hint = "return the logits under the key 'logits'"
    return InputError(f"the model returned {description} instead of logits of shape (images, classes)", hint)
