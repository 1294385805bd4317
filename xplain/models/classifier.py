"""A classifier: pixels in [0, 1] to logits, with the normalisation inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError
from xplain.data.class_names import ClassNames
from xplain.data.preprocessing import Preprocessing

LUMA = torch.tensor(
    [0.299, 0.587, 0.114], dtype=torch.float64
)  # of red, green and blue in grey: ITU-R 601, as Pillow has it


@dataclass(frozen=True)
class Weights:
    """Where parameters came from: a file or a name, and the SHA-256 of the file, or of the parameters where there is none."""

    source: str
    sha256: str = ""


@dataclass(frozen=True)
class Accuracy:
    """The top-1 share on ImageNet's validation images that is published of some weights, and where."""

    top1: float
    source: str


class Classifier(nn.Module):
    """A network with its normalisation, preprocessing and class names; calling it gives logits (B, classes) of pixels in [0, 1].

    ``load_classifier`` makes one. size: input height and width; preprocessing: how images are brought to it; weights: their source and
    SHA-256; accuracy: the top-1 that is published of them, where it is known.
    model: pixels normalised by (x - mean) / std to logits (B, classes).
    channels: what the network takes, 3 or 1; one is given the grey value of the pixels. classes: their number, where it was found.
    probabilities: the network ends in a softmax, whose logarithm is the logits. notes: what a user should know of all this.
    labels: class names by index; wnids: WordNet ids by index; empty where the classes have none. accuracy: what is published of
    the weights, or None.
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
        self.memory_format = torch.contiguous_format  # of working copies
        self.channels = len(mean) or 3
        self.classes: int | None = None
        self.probabilities = False
        self.notes: list[str] = []
        first = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0))
        for key, values in (("mean", mean or (0.0,) * 3), ("std", std or (1.0,) * len(mean or (0.0,) * 3))):
            tensor = torch.tensor(list(values), dtype=torch.float64).to(first.dtype)
            self.register_buffer(key, tensor[:, None, None], persistent=False)
        self.to(first.device)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        logits = find_logits(self.run_network(images))[0]
        if not self.probabilities:
            return logits
        return logits.clamp(min=torch.finfo(logits.dtype).tiny).log()

    def run_network(self, images: Tensor) -> object:
        """What the network returns for images in [0, 1]."""
        pixels = (images.to(self.mean.dtype) - self.mean) / self.std
        if self.channels == 1 and pixels.shape[1] == 3:
            pixels = (pixels * LUMA.to(pixels)[:, None, None]).sum(dim=1, keepdim=True)
        return self.model(pixels)

    def to_memory_format(self, images: Tensor) -> Tensor:
        """The images in the memory format that the network runs best on."""
        return images.contiguous(memory_format=self.memory_format)

    @property
    def size(self) -> tuple[int, int]:
        """Input height and width in pixels."""
        return self.preprocessing.size

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' floating-point type."""
        return self.mean.dtype

    @property
    def class_names(self) -> ClassNames:
        """The names and ids of the classes, for look-up."""
        return ClassNames(self.labels, self.wnids, self.classes, self.name)


def find_logits(output: object) -> tuple[Tensor, str]:
    """(images, classes), and where they were found: ``""`` for the output itself, an index, or a name.

    What is called ``logits`` comes first; else the first such tensor of a tuple or list, or the only one of a mapping or dataclass.
    Raises InputError when there is none.
    """
    direct = _as_logits(output)
    if direct is not None:
        return direct, ""
    named = _parts(output)
    found = {name: logits for name, value in named.items() if (logits := _as_logits(value)) is not None}
    if "logits" in found:
        return found["logits"], "logits"
    if found and (len(found) == 1 or isinstance(output, (tuple, list))):
        name = next(iter(found))
        return found[name], name
    what = f"{tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    several = f" with {' and '.join(found)}" if found else ""
    hint = "call the logits 'logits'" if found else "give an image classifier"
    raise InputError(f"the model returned {what}{several}, not logits (images, classes)", hint)


def _as_logits(value: object) -> Tensor | None:
    """(images, classes), also of a map with one place, (images, classes, 1, 1)."""
    if not isinstance(value, Tensor) or value.ndim < 2 or not value.is_floating_point():
        return None
    return value.flatten(1) if all(side == 1 for side in value.shape[2:]) else None


def _parts(output: object) -> dict[str, object]:
    """What an output consists of, by name or index."""
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, (tuple, list)):
        return {str(index): value for index, value in enumerate(output)}
    if is_dataclass(output):
        return {each.name: getattr(output, each.name) for each in fields(output)}
    return {}
