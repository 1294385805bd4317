"""A classifier: pixels in [0, 1] to logits, with the normalisation inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xplain.core.config import parse_count
from xplain.core.errors import UsageError, did_you_mean
from xplain.data.images import Preprocessing
from xplain.models.logits import find_logits

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
        logits = find_logits(self.run(images))[0]
        if not self.probabilities:
            return logits
        return logits.clamp(min=torch.finfo(logits.dtype).tiny).log()

    def run(self, images: Tensor) -> object:
        """What the network returns for images in [0, 1]."""
        pixels = (images.to(self.mean.dtype) - self.mean) / self.std
        if self.channels == 1 and pixels.shape[1] == 3:
            pixels = (pixels * LUMA.to(pixels)[:, None, None]).sum(dim=1, keepdim=True)
        return self.model(pixels)

    def lay_out(self, images: Tensor) -> Tensor:
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

    def find_class(self, text: str) -> int:
        """The index of a class given as an index, a wnid or a name. Raises UsageError with near matches."""
        if (index := parse_count(text.removeprefix("-"))) is not None:
            index = -index if text.startswith("-") else index
            count = self.classes or len(self.labels)
            if count and not 0 <= index < count:
                raise UsageError(f"class index {index} is not in 0 .. {count - 1}", "see xplain list classes")
            return index
        for key, names in (
            (text.lower(), self.wnids),
            (text, self.labels),
            (_plain(text), [_plain(each) for each in self.labels]),
        ):
            if names.count(key) > 1:
                where = " and ".join(str(i) for i, each in enumerate(names) if each == key)
                raise UsageError(f"class name {text!r} stands for {where}", "give the index or the wnid")
            if key in names:
                return names.index(key)
        known = [*self.labels, *self.wnids]
        raise UsageError(f"unknown class {text!r}", did_you_mean(text, known, "see xplain list classes"))

    def find_named(self, text: str) -> int:
        """The index of a class by its very name, be it a number; else as ``find_class``: so folders name classes."""
        return self.labels.index(text) if self.labels.count(text) == 1 else self.find_class(text)

    def describe_class(self, index: int) -> dict[str, str | int | None]:
        """The index with its wnid and name, None where they are not known."""
        return {
            "index": index,
            "wnid": self.wnids[index] if index < len(self.wnids) else None,
            "name": self.labels[index] if index < len(self.labels) else None,
        }


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")
