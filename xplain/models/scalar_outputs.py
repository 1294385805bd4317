"""Explain any differentiable scalar: a function of the network's output becomes a classifier that returns one value per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError, XplainError, device_error, first_line
from xplain.core.rng import preserve_random_state
from xplain.models.classifier import Classifier
from xplain.models.output_reader import OutputReader
from xplain.models.outputs import OutputKind

# From the output of a network, of any type, to one value per image: (rows,) or (rows, 1).
ScalarFunction = Callable[[Any], Tensor]
NETWORK_PREFIX = "network."  # of the names of the layers of a network, in the classifier with its scalar output
SCALAR_HINT = "return a tensor with one floating-point value per image"

# The scalar classifier that was used last, and its function, by classifier: its inference copies are reused.
_LATEST: WeakKeyDictionary[Classifier, tuple[ScalarFunction, Classifier]] = WeakKeyDictionary()


class ScalarNetwork(nn.Module):
    """A network followed by a function of its output. Returns (rows, 1)."""

    def __init__(self, network: nn.Module, function: ScalarFunction) -> None:
        super().__init__()
        self.network = network
        self.function = function  # registered as a submodule if it is a module

    def forward(self, x: Tensor) -> Tensor:
        """Return the values (rows, 1). Raises InputError if the function fails or returns anything else."""
        output = self.network(x)
        try:
            values = self.function(output)
        except XplainError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise device_error(error) or InputError(
                f"the target function failed: {type(error).__name__}: {first_line(error)}", SCALAR_HINT
            ) from error
        if not isinstance(values, Tensor):
            raise InputError(f"the target function returned {type(values).__name__}", SCALAR_HINT)
        if values.shape not in ((len(x),), (len(x), 1)) or not values.is_floating_point():
            kind = str(values.dtype).removeprefix("torch.")
            raise InputError(
                f"the target function returned {kind} of shape {tuple(values.shape)} for {len(x)} images", SCALAR_HINT
            )
        return values.reshape(len(x), 1)


def with_scalar_output(
    classifier: Classifier, function: ScalarFunction, *, label: str = "", references: Mapping[str, str] | None = None
) -> Classifier:
    """Return a classifier whose only output is the function of the network's output. The two share their parameters.

    label: name of the value. references: SHA-256 of the files that the function depends on, by name.
    """
    latest = _LATEST.get(classifier)
    if latest is not None and latest[0] is function:
        return latest[1]
    scalar = Classifier(
        ScalarNetwork(classifier.model, function),
        name=classifier.name,
        labels=[label] if label else [],
        mean=classifier.mean.flatten().tolist(),
        std=classifier.std.flatten().tolist(),
        preprocessing=classifier.preprocessing,
        weights=classifier.weights,
    )
    scalar.memory_format = classifier.memory_format
    scalar.channels, scalar.has_known_channels = classifier.channels, classifier.has_known_channels
    scalar.classes = 1
    scalar.notes = list(classifier.notes)
    scalar.output = OutputKind("none", source="user")
    scalar.reader = OutputReader("", columns=1)
    scalar.checks, scalar.execution = classifier.checks, classifier.execution
    scalar.references = dict(references or {})
    scalar.train(classifier.training)
    _LATEST[classifier] = (function, scalar)
    return scalar


def resolve_scalar_target(classifier: Classifier, target: Any, against: object = None) -> tuple[Classifier, Any]:
    """Return the classifier and target to use: if the target is a function, a classifier with that output, and None.

    Raises UsageError if there are contrast classes for a function.
    """
    if not callable(target):
        return classifier, target
    if against is not None:
        raise UsageError(
            "a target function has no contrast classes", "remove against, or subtract them in the function"
        )
    return with_scalar_output(classifier, target), None


class CosineSimilarity(nn.Module):
    """Cosine of the angle between the embedding of each image and a reference embedding (D,).

    The cosine of an embedding of length 0 is NaN.
    """

    reference: Tensor

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.register_buffer("reference", reference / reference.norm(), persistent=False)

    def forward(self, output: object) -> Tensor:
        """Return the cosines (rows,) for the output of a network."""
        embeddings = find_embeddings(output)
        return (embeddings / embeddings.norm(dim=1, keepdim=True)) @ self.reference.to(embeddings)


def similarity(classifier: Classifier, image: Tensor) -> CosineSimilarity:
    """Return the target function "cosine similarity to the embedding of an image", for ``attribute`` and ``measure``.

    Args:
        classifier: a model without a classification head, such as a timm model with ``num_classes=0``; the output of any other model
            is used as the embedding.
        image: (C, H, W) or (1, C, H, W) in [0, 1], as ``read_image`` returns it.

    Raises:
        InputError: the model returns no embedding (B, D), or the embedding of the image has length 0.
        UsageError: the image is not one image.

    Example:
        >>> target = xplain.similarity(clf, xplain.read_image("dog.jpg", preprocessing=clf.preprocessing))
        >>> att = xplain.attribute(clf, x, "integrated-gradients", target=target)
    """
    if not isinstance(image, Tensor):
        raise UsageError(
            f"the reference image is of type {type(image).__name__}", "pass the result of xplain.read_image"
        )
    images = image[None] if image.ndim == 3 else image
    if images.ndim != 4 or len(images) != 1:
        raise UsageError(f"the reference image has shape {tuple(image.shape)}", "pass one image (C, H, W)")
    with torch.no_grad(), preserve_random_state():
        (embedding,) = find_embeddings(classifier.run_network(images.to(classifier.device, classifier.dtype)))
    if not bool(embedding.isfinite().all()) or not bool(embedding.any()):
        raise InputError("the embedding of the reference image is zero or not finite", "use another image")
    return CosineSimilarity(embedding)


def is_similarity(classifier: Classifier) -> bool:
    """Return whether the output of a classifier is a cosine similarity, which is NaN for an embedding of length 0."""
    return isinstance(classifier.model, ScalarNetwork) and isinstance(classifier.model.function, CosineSimilarity)


def check_directions(classifier: Classifier, *results: Tensor | None) -> None:
    """Raise InputError if results of a cosine similarity are not finite, because an embedding of length 0 has no direction."""
    is_finite = all(bool(result.isfinite().all()) for result in results if result is not None)
    if not is_finite and is_similarity(classifier):
        raise InputError(
            "the embedding of the baseline or of a changed image is zero and has no similarity",
            "use another baseline, such as baseline=blur or baseline=mean",
        )


def find_embeddings(output: object) -> Tensor:
    """Return the embeddings (B, D) in the output of a network: the output itself, ``image_embeds`` or ``pooler_output``.

    Raises InputError if there are none.
    """
    for value in (output, *(_read_entry(output, name) for name in ("image_embeds", "pooler_output"))):
        if isinstance(value, Tensor) and value.ndim >= 2 and all(side == 1 for side in value.shape[2:]):
            return value.flatten(1)
    description = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise InputError(
        f"the model returns {description} instead of embeddings (images, D)", "return one vector per image"
    )


def _read_entry(output: object, name: str) -> object:
    """Return an entry of a mapping or an attribute of another output, or None."""
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
