"""The data that ``evaluate`` of the library receives: a location on disk, a data set or loader of PyTorch, or images in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xplain.core.errors import InputError, UsageError, XplainError, first_line
from xplain.data.datasets import Item
from xplain.data.image_values import make_source
from xplain.data.sources import ImageSource
from xplain.models import Classifier
from xplain.pipelines.image_arguments import known_channels

IMAGE_KEYS, LABEL_KEYS = ("image", "img", "pixel_values"), ("label", "labels", "target")
DATA_HINT = "pass a directory, a data set or loader of (image, label) pairs, or a list or batch of images"


class Element(NamedTuple):
    """An element of a data set. label: as the data set has it; None if it has none."""

    image: Any
    label: Any


def make_items(classifier: Classifier, data: object, labels: object = None, *, limit: int | None = None) -> list[Item]:
    """Return the images of data that is not on disk, in order, named by their position.

    data: a data set with a length and elements, which are read when they are needed; a loader, whose batches are kept in
        memory; a list of images; or a batch (B, C, H, W). An element is an image as ``make_source`` accepts it, a pair (image, label), or
        a dictionary with an entry ``image`` and maybe ``label``.
    labels: one class index or name per image; by default those of the data.
    limit: return at most so many images, at even distances, without reading the others.
    Raises UsageError for other data, and InputError if an image or a label cannot be used.
    """
    elements = _find_elements(data)
    count = len(elements)
    if not count:
        raise UsageError("the data set is empty", "pass at least one image")
    known = _find_labels(data, labels, count)
    digits = len(str(count - 1))
    items: list[Item] = []
    find = _ElementReader(elements, known_channels(classifier), digits)
    for index in _choose(count, limit):
        label = known[index] if known is not None else find.element(index).label
        key = find.name(index)
        source = ImageSource(None, key, member=key, find=partial(find.source, index))
        items.append(_label_item(Item(key, source, None), label, classifier))
    find.check_first()
    return items


def _choose(count: int, limit: int | None) -> Iterable[int]:
    """Return the positions of ``limit`` images at even distances, as ``select_items`` chooses them; of all without a limit."""
    if limit is None or limit >= count:
        return range(count)
    return [count * k // limit for k in range(limit)]


class _ElementReader:
    """Reads the elements of a data set as images of one shape."""

    def __init__(self, elements: Sequence[Any], channels: Any, digits: int) -> None:
        self.elements, self.channels, self.digits = elements, channels, digits
        self.shape: tuple[int, ...] | None = None  # of the first image, if it is model input
        self.lock = Lock()  # images are read by several threads, which a data set may not support

    def name(self, index: int) -> str:
        """Return the name of an image: its position, with leading zeros, so that names have the order of the data."""
        return f"{index:0{self.digits}}"

    def element(self, index: int) -> Element:
        """Return an element. Raises InputError if the data set fails."""
        try:
            with self.lock:
                return split_element(self.elements[index])
        except XplainError:
            raise
        except Exception as error:  # the user's data set may raise anything
            raise InputError(
                f"the data set failed at element {index}: {type(error).__name__}: {first_line(error)}",
                "check the data set, or leave the element out",
            ) from error

    def source(self, index: int) -> ImageSource:
        """Return the source of an image. Raises InputError if model input has another shape than the first image."""
        source = make_source(self.element(index).image, self.name(index), self.channels)
        if source.pixels is not None and self.shape is not None and tuple(source.pixels.shape) != self.shape:
            raise InputError(
                f"image {self.name(index)!r} has the shape {tuple(source.pixels.shape)}, but the first has {self.shape}",
                "resize the images to one shape",
            )
        return source

    def check_first(self) -> None:
        """Read the first image. Raises UsageError or InputError if it cannot be used."""
        pixels = self.source(0).pixels
        self.shape = None if pixels is None else tuple(pixels.shape)


def split_element(element: Any) -> Element:
    """Return the image and the label of an element: a pair, a dictionary, or an image without a label."""
    if isinstance(element, Mapping):
        image = next((element[key] for key in IMAGE_KEYS if key in element), None)
        if image is None:
            raise UsageError(f"an element has the entries {', '.join(map(str, element))}", "call the image 'image'")
        return Element(image, next((element[key] for key in LABEL_KEYS if key in element), None))
    if isinstance(element, tuple | list) and element and not isinstance(element[0], int | float):
        return Element(element[0], element[1] if len(element) > 1 else None)
    return Element(element, None)


def _find_elements(data: object) -> Sequence[Any]:
    """Return the elements of the data, by position."""
    if isinstance(data, Tensor | np.ndarray):
        if data.ndim != 4:
            raise UsageError(f"the images have the shape {tuple(data.shape)}", "pass a batch of images, with four axes")
        return data  # type: ignore[return-value]  # has a length and elements
    if hasattr(data, "dataset") and hasattr(data, "__iter__"):
        return list(_read_loader(data))
    is_sized = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if not is_sized or isinstance(data, str | bytes | PathLike | Mapping):
        raise UsageError(f"the data is of type {type(data).__name__}", DATA_HINT)
    return data  # type: ignore[return-value]


def _read_loader(loader: Any) -> Iterator[Element]:
    """Yield the elements of the batches of a loader. Raises InputError if the loader fails."""
    try:
        for batch in loader:
            images, labels = split_element(batch)
            yield from map(Element, images, [None] * len(images) if labels is None else labels)
    except XplainError:
        raise
    except Exception as error:  # the user's data set may raise anything
        raise InputError(f"the loader failed: {type(error).__name__}: {first_line(error)}", "check it") from error


def _find_labels(data: object, labels: object, count: int) -> Sequence[Any] | None:
    """Return the labels of all images if they are known without reading the images."""
    if labels is not None:
        if isinstance(labels, str | PathLike) or not hasattr(labels, "__len__"):
            raise UsageError(f"the labels are of type {type(labels).__name__}", "pass one class per image")
        if len(labels) != count:
            raise UsageError(f"got {len(labels)} labels for {count} images", "pass one label per image")
        return labels  # type: ignore[return-value]
    if isinstance(data, Tensor | np.ndarray):
        return [None] * count
    targets: Any = getattr(data, "targets", None)  # of torchvision's data sets
    if isinstance(targets, list | Tensor | np.ndarray) and len(targets) == count:
        return list(targets)
    return None


def _label_item(item: Item, label: Any, classifier: Classifier) -> Item:
    """Return an item with its label, or with several if the model has independent labels. Raises InputError for an unknown class."""
    if label is None or not classifier.output.has_probabilities:
        return item
    has_label_sets = classifier.output.activation == "sigmoid"
    try:
        values = torch.as_tensor(label) if isinstance(label, Tensor | np.ndarray | np.generic) else label
        if isinstance(values, Tensor) and values.ndim == 1 and has_label_sets:
            indices = values.nonzero()[:, 0].tolist()
        elif isinstance(label, str):
            indices = [classifier.class_names.find(label)]
        else:
            indices = [int(values)]
            if indices[0] != float(values) or isinstance(label, bool):
                raise ValueError(label)
    except (TypeError, ValueError, RuntimeError, UsageError):
        raise InputError(
            f"image {item.key!r} has the label {label!r}", "use the index or the name of a class of the model"
        ) from None
    count = classifier.classes
    if count is not None and any(not 0 <= index < count for index in indices):
        raise InputError(
            f"image {item.key!r} has the label {max(indices, key=abs)}, but {classifier.name} has {count} classes",
            "pass class indices of the model, or labels=None and a data set without labels",
        )
    if has_label_sets:
        return Item(item.key, item.source, indices[0] if indices else None, tuple(indices))
    return Item(item.key, item.source, indices[0])
