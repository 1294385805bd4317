"""Classifier: images in [0, 1] to logits, with the normalization inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError, convert_device_errors
from xplain.data.class_names import ClassNames
from xplain.data.preprocessing import Preprocessing
from xplain.models.arithmetic import reproducible_arithmetic
from xplain.models.black_box import BlackBox
from xplain.models.checks import ModelChecks
from xplain.models.execution import Execution
from xplain.models.output_detection import DetectedOutput, detect_output
from xplain.models.output_reader import OutputReader
from xplain.models.output_request import OutputRequest
from xplain.models.outputs import OutputKind

if TYPE_CHECKING:
    from xplain.data.image_values import ImageLike
    from xplain.models.top_classes import TopClasses

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
    channels: input channels of the network. A network of one channel receives the gray value of RGB pixels.
    has_known_channels: False if the network accepted no image of the assumed size; the first real images then determine the channels.
    classes: the number of classes, or None if unknown. A network with one output has two, with the logits (-z, z).
    output: the meaning of the logits: softmax, sigmoid, binary or none.
    reader: how the logits are computed from the output of the network.
    request: what the user or the module states about the outputs.
    labels: class names by index, empty if unknown.
    wnids: WordNet ids by index, empty if unknown.
    names_source: where the class names come from, for errors.
    texts: the texts of each class of a zero-shot classifier, empty for other models.
    notes: the assumptions made about the network, as text for the user.
    assumptions: what a user's network does not state about its input: ``size``, ``normalization``.
    checks: results of the checks of the network. execution: how the network is run.
    pending_inspection: function that inspects the network with the shape of the first images, if that was not possible when it was
        loaded; None otherwise.
    references: SHA-256 of other files that the output depends on, by name.
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
        self.allows_channels_last = True
        self.channels = max(len(mean), len(std)) or 3
        self.has_known_channels = True
        self.classes: int | None = None
        self.output = OutputKind()
        self.texts: Sequence[Sequence[str]] = ()
        self.reader = OutputReader()
        self.request = OutputRequest()
        self.names_source = "the model's labels"
        self.notes: list[str] = []
        self.assumptions: set[str] = set()
        self.checks = ModelChecks()
        self.execution = Execution.of(model)
        self.pending_inspection: Callable[[Classifier, Tensor], None] | None = None
        self.references: dict[str, str] = {}
        if len(mean) > 1 and len(std) > 1 and len(mean) != len(std):
            raise InputError(
                f"the mean has {len(mean)} values and the std has {len(std)}", "use one value per channel for both"
            )
        mean = mean or (0.0,) * (len(std) or 3)
        std = std or (1.0,) * len(mean)
        float_parameters = (parameter for parameter in model.parameters() if parameter.is_floating_point())
        first = next(float_parameters, torch.empty(0))
        for key, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor(list(values), dtype=torch.float64).to(first.dtype)
            self.register_buffer(key, tensor[:, None, None], persistent=False)
        self.to(first.device)
        self.set_channels(self.channels)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) in [0, 1]. Raises UsageError unless they are floating point.

        The values are not checked, because attacks and noise leave [0, 1].
        """
        self._check_images(images)
        self.inspect_first_images(images)
        logits = self.reader.run(self.model, lambda: self.run_network(images))
        return logits if torch.is_grad_enabled() else logits.detach()  # networks with tensor hooks run with gradients

    def __repr__(self) -> str:
        classes = "unknown classes" if self.classes is None else f"{self.classes} classes"
        channels = self.channels if self.has_known_channels else "C"
        shape = f"{channels} x {self.size[0]} x {self.size[1]}"
        return f"Classifier({self.name!r}, {classes}, {self.output.activation}, input {shape}, on {self.device})"

    def top_classes(self, image: ImageLike, count: int = 5) -> TopClasses:
        """Return the best classes of an image, as a table: a path, a Pillow image, an array or a tensor, see ``xplain.explain``."""
        from xplain.models.top_classes import find_top_classes

        return find_top_classes(self, image, count)

    def raw(self, images: Tensor) -> object:
        """Return the output of the network itself, of any type, for images (B, C, H, W) in [0, 1]."""
        self._check_images(images)
        return self.run_network(images)

    def detect_output(self, images: Tensor, pair: object = None) -> None:
        """Set ``classes``, ``output`` and ``reader`` from trial runs on noise, and add to the ``notes``.

        images: (B, C, H, W) of a shape that the network accepts. pair: the output of the network for two images, if it is known.
        Raises InputError if the output has no logits, and UsageError or InputError if it contradicts the request.
        """
        self.set_output(detect_output(self.model, self.run_network, images.detach().to(self.dtype), self.request, pair))

    def set_output(self, detected: DetectedOutput) -> None:
        """Set ``classes``, ``output`` and ``reader``, and add the notes. A single label names class 1 of a network with one output."""
        self.classes, self.output, self.reader = detected.classes, detected.kind, detected.reader
        self.notes += detected.notes
        if self.output.activation == "binary" and len(self.labels) == 1:
            self.labels, self.wnids = [f"not {self.labels[0]}", *self.labels], []

    def check_class_names(self) -> None:
        """Raise InputError if the number of class names or wnids differs from the number of classes, if both are known."""
        for names, kind in ((self.labels, "names"), (self.wnids, "wnids")):
            if names and self.classes is not None and len(names) != self.classes:
                raise InputError(
                    f"{self.names_source} has {len(names)} {kind}, but {self.name} has {self.classes} classes",
                    "use --classes with one name per class",
                )

    def inspect_first_images(self, images: Tensor) -> None:
        """Inspect the network with the shape of the images (B, C, H, W), if that was not possible when it was loaded.

        If the network does not accept the images, it is inspected with the next ones.
        """
        inspect, self.pending_inspection = self.pending_inspection, None
        if inspect is not None:
            with reproducible_arithmetic(self.device), convert_device_errors():
                inspect(self, images)

    def _check_images(self, images: object) -> None:
        """Raise UsageError unless the images are a floating-point tensor (B, C, H, W) with channels that the model accepts."""
        if not isinstance(images, Tensor):
            raise UsageError(f"the images are of type {type(images).__name__}, not a tensor", IMAGES_HINT)
        if images.ndim != 4 or not images.is_floating_point():
            actual = f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
            raise UsageError(f"images must be a floating-point tensor of shape (B, C, H, W), got {actual}", IMAGES_HINT)
        if self.has_known_channels and images.shape[1] not in self.accepted_channels:
            raise UsageError(*self.describe_channel_mismatch(images.shape))
        if images.device != self.device:
            raise UsageError(
                f"the images are on {images.device}, the model on {self.device}", "use images.to(classifier.device)"
            )

    def run_network(self, images: Tensor) -> object:
        """Return the output of the network, of any type, for images (B, C, H, W) in [0, 1]."""
        pixels = (images.to(self.mean.dtype) - self.mean) / self.std
        if self.channels == 1 and pixels.shape[1] == 3:
            pixels = (pixels * LUMA.to(pixels)[:, None, None]).sum(dim=1, keepdim=True)
        return self.execution.run(self.model, pixels)

    def set_channels(self, channels: int) -> None:
        """Set the number of channels of the network, of images that are read from files, and of a normalization without effect."""
        self.channels = channels
        count = self.input_channels
        self.preprocessing = replace(self.preprocessing, pixels=replace(self.preprocessing.pixels, channels=count))
        is_shared = len(self.mean) == 1 and self.has_known_channels
        if not self.is_normalized and len(self.mean) != count and not is_shared:
            self.mean = self.mean[:1].repeat(count, 1, 1)
            self.std = self.std[:1].repeat(count, 1, 1)
        self.has_known_channels = True

    def mean_color(self, channels: int) -> Tensor:
        """Return the color (``channels`` or 1, 1, 1) that the normalization maps to zero.

        For gray images of a network of one channel, whose normalization has three values: the gray that becomes zero.
        """
        if len(self.mean) in (1, channels):
            return self.mean
        weights = LUMA.to(self.mean)[:, None, None] / self.std
        return (weights * self.mean).sum(dim=0, keepdim=True) / weights.sum(dim=0, keepdim=True)

    def color_scale(self, channels: int) -> Tensor:
        """Return the change of a color (``channels`` or 1, 1, 1) that changes the normalized input by 1, as ``mean_color`` does."""
        if len(self.std) in (1, channels):
            return self.std
        return 1 / (LUMA.to(self.std)[:, None, None] / self.std).sum(dim=0, keepdim=True)

    def forget_channels(self) -> None:
        """Determine the number of channels from the first real images, unless the normalization has several values."""
        if not self.is_normalized:
            self.mean, self.std = self.mean[:1], self.std[:1]
        self.has_known_channels = max(len(self.mean), len(self.std)) > 1

    @property
    def input_channels(self) -> int:
        """Number of channels of the images that the commands pass: 3 also for a network of one channel, as photographs have."""
        return 3 if self.channels == 1 else self.channels

    @property
    def accepted_channels(self) -> tuple[int, ...]:
        """Numbers of channels that images may have."""
        return (3, 1) if self.channels == 1 else (self.channels,)

    def describe_channel_mismatch(self, shape: Sequence[int]) -> tuple[str, str]:
        """Return the message and the hint of an error about images of this shape (B, C, H, W)."""
        count = shape[1]
        message = f"images {tuple(shape)} have {count} channel{'s' * (count != 1)}, but the model takes {self.channels}"
        if shape[3] in self.accepted_channels:
            return message, "move the channels first by images.permute(0, 3, 1, 2)"
        if self.channels == 3:
            hints = {
                1: "repeat the gray channel by images.expand(-1, 3, -1, -1)",
                4: "remove transparency by images[:, :3]",
            }
            return message, hints.get(count, "pass images with red, green and blue, channels first")
        return message, f"pass images of shape (B, {self.channels}, H, W)"

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

    @property
    def differentiable(self) -> bool:
        """Whether the logits have gradients with respect to the images."""
        return not self.is_black_box and self.checks.has_gradients

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
