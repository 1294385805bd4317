"""Zero-shot classifiers: the classes are texts, and their logits are scaled similarities of image and text features.

Only the image tower is part of the classifier. The features of the texts are computed once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError
from xplain.data.class_names import read_class_names
from xplain.models.classifier import Classifier, Weights
from xplain.models.image_processors import ImageProcessor
from xplain.models.outputs import OutputKind

DEFAULT_TEMPLATE = "a photo of a {}."
TEXT_MODELS = ("hf:", "clip:")  # prefixes of the names of models that can compare images with texts

# A function from a list of texts to their features (texts, dimensions).
EncodeTexts = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class TextRequest:
    """The texts that the user wants to compare images with: prompts, or class names that are put into templates.

    classes: file or list of class names, which is also used by models without texts.
    """

    prompts: tuple[str, ...] = ()
    classes: Path | tuple[str, ...] | None = None
    templates: tuple[str, ...] = ()

    @property
    def requires_text_model(self) -> bool:
        """Whether the request requires a model that compares images with texts."""
        return bool(self.prompts or self.templates)

    @property
    def has_texts(self) -> bool:
        """Whether the request names classes."""
        return self.requires_text_model or self.classes is not None

    def check(self) -> None:
        """Raise UsageError if the options contradict each other or a text is empty."""
        if self.prompts and self.classes is not None:
            raise UsageError("--prompt and --classes both name the classes", "remove one of them")
        if self.templates and self.classes is None:
            raise UsageError("--template requires --classes", "add a file with the names to insert, or use --prompt")
        for template in self.templates:
            if template.count("{}") != 1:
                raise UsageError(
                    f"invalid template {template!r}", 'use {} once where the class name belongs: "a photo of a {}"'
                )
        for prompt in self.prompts:
            if not prompt.strip():
                raise UsageError("a prompt is empty", "use a text such as 'a photo of a cat'")


def make_request(
    name: object, prompts: Sequence[str], classes: str | Path | Sequence[str] | int | None, templates: Sequence[str]
) -> TextRequest:
    """Return the texts to compare images with. Raises UsageError if they are invalid or do not apply to the model."""
    for values, argument in ((prompts, "prompts"), (templates, "templates")):
        is_list = isinstance(values, Sequence) and not isinstance(values, str)
        if not is_list or not all(isinstance(value, str) for value in values):
            raise UsageError(
                f"{argument} must be a list of texts, got {values!r}", f"use {argument}=['a photo of a cat']"
            )
    source: Path | tuple[str, ...] | None = None
    if classes is not None and not isinstance(classes, int):
        source = Path(classes) if isinstance(classes, str | PathLike) else tuple(classes)
    request = TextRequest(tuple(prompts), source, tuple(templates))
    if request.requires_text_model and not (isinstance(name, str) and name.startswith(TEXT_MODELS)):
        raise refuse_texts(name if isinstance(name, str) else type(name).__name__)
    request.check()
    return request


@dataclass(frozen=True)
class ClassTexts:
    """The classes of a zero-shot classifier: names, WordNet ids ([] if unknown), and the texts of each class."""

    labels: tuple[str, ...]
    wnids: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]


def make_class_texts(name: str, request: TextRequest) -> ClassTexts:
    """Return the texts of a request. Raises UsageError if it has none, and InputError if the classes cannot be read.

    name: of the model, for messages.
    """
    if request.prompts:
        return ClassTexts(request.prompts, (), tuple((prompt,) for prompt in request.prompts))
    if request.classes is None:
        raise UsageError(f"{name!r} compares images with texts", "name the classes with --prompt or --classes")
    wnids, labels = ((), request.classes) if isinstance(request.classes, tuple) else read_class_names(request.classes)
    templates = request.templates or (DEFAULT_TEMPLATE,)
    texts = tuple(tuple(template.replace("{}", label) for template in templates) for label in labels)
    return ClassTexts(labels, wnids, texts)


def refuse_texts(name: str) -> UsageError:
    """Return the error of prompts for a model that does not compare images with texts."""
    return UsageError(
        f"--prompt and --template do not apply to {name!r}", "use them with CLIP and SigLIP models (hf:... or clip:...)"
    )


def check_length(text: str, count: int, limit: int) -> None:
    """Raise InputError if a text has more tokens than the model accepts."""
    if count > limit:
        raise InputError(
            f"the prompt {text!r} has {count} tokens, and the model accepts {limit}", "use a shorter prompt"
        )


@torch.no_grad()
def encode_classes(encode_texts: EncodeTexts, texts: Sequence[Sequence[str]]) -> Tensor:
    """Return the normalized features (classes, dimensions): of one text per class, or the mean of several normalized features."""
    flat = [text for group in texts for text in group]
    features = F.normalize(encode_texts(flat).float(), dim=-1)
    groups = features.split([len(group) for group in texts])
    return F.normalize(torch.stack([group.mean(dim=0) for group in groups]), dim=-1)


class ImageTextClassifier(nn.Module):
    """Compares images with fixed texts. A subclass has the image tower and implements ``encode_images``.

    text_features: normalized, (classes, dimensions). scale, bias: of the logits scale * similarity + bias.
    Without a head, the outputs are the features of the images.
    """

    text_features: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, head: TextHead | None) -> None:
        super().__init__()
        self.has_texts = head is not None
        if head is None:
            return
        self.register_buffer("text_features", head.text_features)
        self.register_buffer("scale", head.scale.detach().float().reshape(()).clone())
        self.register_buffer("bias", torch.zeros(len(head.text_features)) if head.bias is None else head.bias)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return the features (B, dimensions) of normalized images."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (B, classes) of normalized images, or their features (B, dimensions) without a head."""
        features = self.encode_images(pixels)
        if not self.has_texts:
            return features
        features = F.normalize(features, dim=-1)
        return self.scale * (features @ self.text_features.T) + self.bias


@dataclass(frozen=True)
class TextHead:
    """Parts of an ImageTextClassifier: text_features, scale and bias, and the names of its classes and their probabilities."""

    text_features: Tensor
    scale: Tensor
    bias: Tensor | None
    output: OutputKind
    texts: ClassTexts


def make_text_head(encode_texts: EncodeTexts, scale: Tensor, bias: Tensor | None, texts: ClassTexts) -> TextHead:
    """Return the head of a model that compares images with texts.

    bias: of a model with a sigmoid loss, whose texts are independent, or None for a softmax over the texts.
    With a single text, a sigmoid model has two exclusive classes, and a softmax model returns a value.
    """
    features = encode_classes(encode_texts, texts.texts)
    if bias is None:
        kind = OutputKind("softmax" if len(features) > 1 else "none", source="config")
        return TextHead(features, scale, None, kind, texts)
    bias = bias.detach().float().reshape(()).expand(len(features)).clone()
    if len(features) > 1:
        return TextHead(features, scale, bias, OutputKind("sigmoid", source="config"), texts)
    # Logits (-z, z): the negative class has the negative features and bias.
    labels = (f"not {texts.labels[0]}", texts.labels[0])
    negated = ClassTexts(labels, (), ((), texts.texts[0]))
    kind = OutputKind("binary", source="config")
    return TextHead(torch.cat([-features, features]), scale, torch.cat([-bias, bias]), kind, negated)


def make_classifier(
    model: ImageTextClassifier, name: str, head: TextHead, processor: ImageProcessor, weights: Weights
) -> Classifier:
    """Return the classifier of an image tower and its texts."""
    classifier = Classifier(
        model,
        name=name,
        wnids=head.texts.wnids,
        labels=head.texts.labels,
        mean=processor.mean,
        std=processor.std,
        preprocessing=processor.preprocessing,
        weights=hash_with_texts(weights, head.texts),
    )
    classifier.output = head.output
    classifier.texts = head.texts.texts
    classifier.notes = list(processor.notes)
    return classifier


def make_embedder(network: nn.Module, name: str, processor: ImageProcessor, weights: Weights) -> Classifier:
    """Return a classifier without classes, whose outputs are the embedding of an image."""
    classifier = Classifier(
        network,
        name=name,
        mean=processor.mean,
        std=processor.std,
        preprocessing=processor.preprocessing,
        weights=weights,
    )
    classifier.output = OutputKind("none", source="config")
    classifier.notes = list(processor.notes)
    return classifier


def hash_with_texts(weights: Weights, texts: ClassTexts) -> Weights:
    """Return weights whose hash also covers the texts, because the classifier's logits depend on them."""
    content = json.dumps([weights.sha256, texts.texts])
    return Weights(weights.source, hashlib.sha256(content.encode()).hexdigest())
