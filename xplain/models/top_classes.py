"""The best classes of an image, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, overload

import torch

from xplain.data.image_values import make_source
from xplain.data.loading import load_image

if TYPE_CHECKING:
    from xplain.data.image_values import ImageLike
    from xplain.models.classifier import Classifier


@dataclass(frozen=True)
class RankedClass:
    """A class of a prediction. wnid, name: None if unknown. probability: the value if ``is_value``, as of models without probabilities."""

    index: int
    wnid: str | None
    name: str | None
    probability: float
    is_value: bool = False

    @property
    def text(self) -> str:
        """The name, or the index."""
        return self.name or f"{'output' if self.is_value else 'class'} {self.index}"


class TopClasses(Sequence[RankedClass]):
    """The best classes of an image, best first. A notebook shows them as a table."""

    def __init__(self, classes: Sequence[RankedClass]) -> None:
        self._classes = list(classes)

    def __len__(self) -> int:
        return len(self._classes)

    @overload
    def __getitem__(self, index: int) -> RankedClass: ...
    @overload
    def __getitem__(self, index: slice) -> TopClasses: ...
    def __getitem__(self, index: int | slice) -> RankedClass | TopClasses:
        return TopClasses(self._classes[index]) if isinstance(index, slice) else self._classes[index]

    def __repr__(self) -> str:
        width = max((len(entry.text) for entry in self._classes), default=0)
        return "\n".join(f"{entry.index:>5}  {entry.text:<{width}}  {entry.probability:.4g}" for entry in self._classes)

    def _repr_html_(self) -> str:
        heading = "value" if any(entry.is_value for entry in self._classes) else "probability"
        rows = [
            f"<tr><td>{entry.index}</td><td>{escape(entry.text)}</td><td>{entry.probability:.4g}</td></tr>"
            for entry in self._classes
        ]
        return f"<table><tr><th>index</th><th>class</th><th>{heading}</th></tr>{''.join(rows)}</table>"


@torch.no_grad()
def find_top_classes(classifier: Classifier, image: ImageLike, count: int) -> TopClasses:
    """Return the ``count`` best classes of an image that ``make_source`` accepts."""
    channels = classifier.accepted_channels if classifier.has_known_channels else ()
    pixels = load_image(make_source(image, "image", channels), classifier.preprocessing).pixels
    (logits,) = classifier(pixels[None].to(classifier.device, classifier.dtype)).double()
    output = classifier.output
    probabilities = output.probabilities(logits)
    ranked = []
    for index in output.rank_classes(logits, count).tolist():
        names = classifier.class_names.describe(index)
        ranked.append(
            RankedClass(
                index,
                None if names["wnid"] is None else str(names["wnid"]),
                None if names["name"] is None else str(names["name"]),
                float(probabilities[index]),
                is_value=not output.has_probabilities,
            )
        )
    return TopClasses(ranked)
