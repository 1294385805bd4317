"""Read the boxes and masks that the parameters of a metric name, and find those of a batch of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.parameters import EXISTING_PATH
from xplain.core.registry import MetricSpec
from xplain.data.annotations import Annotations, locate_boxes, read_annotations
from xplain.data.class_names import ClassNames
from xplain.data.file_index import FileIndex
from xplain.data.mask_regions import ImageFacts
from xplain.data.masks import Masks, find_masks
from xplain.metrics.inputs import MetricInput

MASK_OPTIONS = ("categories", "difficult")  # parameters of metrics that require masks


def reads_path(spec: MetricSpec, name: str) -> bool:
    """Return whether a metric has a parameter of this name that is the path of a file or folder."""
    return name in spec.parameters and spec.parameters[name].bounds is EXISTING_PATH


def _get_path(spec: MetricSpec, settings: Mapping[str, Any], name: str) -> str | None:
    """Return the path that a parameter names; None if it names none or is no path."""
    return settings[name] if reads_path(spec, name) else None


def find_annotations(
    spec: MetricSpec, settings: Mapping[str, Any], label: str, index: FileIndex, class_names: ClassNames
) -> tuple[Annotations | None, Masks | None]:
    """Return the boxes and the masks of the images in ``index``, None for those that the settings do not name.

    label: of the metric, for messages. Raises InputError if a file cannot be read or contradicts itself, and UsageError if the settings
    contradict each other.
    """
    boxes, masks = _get_path(spec, settings, "boxes"), _get_path(spec, settings, "masks")
    if boxes is not None and masks is not None:
        raise UsageError(f"{label} accepts either boxes or masks", "remove one of them")
    if boxes is not None and settings.get("difficult") == "ignore":
        if not Path(boxes).is_dir():
            raise UsageError(
                f"{label}: difficult requires masks, or boxes in Pascal VOC XML files",
                "set masks=PATH or remove difficult",
            )
        boxes, masks = None, boxes  # of which the boxes are read as masks, so that pixels can be ignored
    if masks is not None:
        options = [settings[name] for name in MASK_OPTIONS]
        return None, find_masks(masks, index, class_names, *options)
    for name in MASK_OPTIONS:
        if name in settings and settings[name] != spec.parameters[name].default:
            raise UsageError(f"{label}: {name} requires masks", f"set masks=PATH or remove {name}")
    return None if boxes is None else read_annotations(boxes).assign(index, class_names), None


def locate_annotations(
    spec: MetricSpec,
    settings: Mapping[str, Any],
    inputs: MetricInput,
    boxes: Annotations | None,
    masks: Masks | None,
) -> MetricInput:
    """Return the input of a metric with the boxes or masks of its images, if the settings name any.

    Raises UsageError if the names of the images are unknown.
    """
    box_path = _get_path(spec, settings, "boxes")
    if box_path is not None and settings.get("difficult") != "ignore":
        return replace(inputs, boxes=_locate_boxes(spec, inputs, boxes))
    if (path := box_path or _get_path(spec, settings, "masks")) is not None:
        key = ("masks", path, *(settings[name] for name in MASK_OPTIONS))
        if key not in inputs.cache:
            inputs.cache[key] = _locate_masks(spec, inputs, masks)
        return replace(inputs, masks=inputs.cache[key])
    return inputs


def _locate_boxes(spec: MetricSpec, inputs: MetricInput, boxes: Annotations | None) -> Tensor:
    """Return the bounding boxes of the images in a batch."""
    if boxes is None or not (inputs.keys and inputs.sizes):
        raise UsageError(
            f"{spec.name} cannot look up boxes in a file, because the images have no names",
            "pass a tensor of shape (images, boxes, 4) in image pixels",
        )
    classifier = inputs.oracle.classifier
    find_class = classifier.class_names.find
    return locate_boxes(boxes, inputs.keys, inputs.sizes, inputs.y.tolist(), classifier.preprocessing, find_class)


def _locate_masks(spec: MetricSpec, inputs: MetricInput, masks: Masks | None) -> Tensor:
    """Return the masks of the images in a batch."""
    if masks is None or not (inputs.keys and inputs.sizes):
        raise UsageError(
            f"{spec.name} cannot look up masks in a file, because the images have no names",
            "pass a tensor of shape (images, masks, height, width) of 0 and 1",
        )
    facts = zip(inputs.keys, inputs.sizes, inputs.orientations, strict=True)
    images = [ImageFacts(*values) for values in facts]
    return masks.locate(images, inputs.y.tolist(), inputs.oracle.classifier.preprocessing)
