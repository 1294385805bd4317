"""Find the number of input channels of a model: by its normalization, its attributes and layers, and by running it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from xplain.core.errors import MODEL_ERRORS, InputError, UsageError, device_error, first_line
from xplain.models.classifier import Classifier

# Errors that models raise for an input of a shape that they do not accept.
SHAPE_ERRORS = (RuntimeError, AssertionError, ValueError, IndexError)
EXPECTED = re.compile(r"input\[\d+, (\d+), \d+, \d+\] to have (\d+) channels")  # of the error of a convolution
TRIAL_ROWS = 2
MAX_LAYERS = 8
COMMON_COUNTS = (2, *range(4, 17))  # tried last


class ChannelError(InputError):
    """Raised when the normalization of a model has another number of channels than its network."""


def run_on_noise(classifier: Classifier, channels: int | None = None) -> object:
    """Return the network's output for TRIAL_ROWS images of noise, and set its channels to the first number that it accepts.

    channels: the number to use, or None to try several.
    Raises ChannelError if it accepts none because the normalization has another number, and InputError because of the image size.
    """
    errors: dict[int, Exception] = {}
    candidates = list_candidates(classifier, errors) if channels is None else (channels,)
    for candidate in candidates:
        try:
            return _run(classifier, candidate)
        except SHAPE_ERRORS as error:
            if device_error(error):
                raise
            errors[candidate] = error
    _check_normalization(classifier, errors)
    most_telling, reported = _most_telling(errors)
    classifier.set_channels(most_telling)
    classifier.forget_channels()
    raise size_error(classifier.name, classifier.size, reported)


def learn_channels(classifier: Classifier, images: Tensor) -> None:
    """Set the channels by running the first of some images (B, C, H, W) in [0, 1].

    Raises UsageError if the network takes another number. Any other error is left to the caller's own run.
    """
    count = images.shape[1]
    error: Exception | None = None
    for channels in (3, 1) if count == 3 else (count,):
        classifier.set_channels(channels)
        try:
            with torch.no_grad():
                classifier.run_network(images[:1])
        except MODEL_ERRORS as raised:
            if device_error(raised):
                raise
            error = error or raised
        else:
            return
    classifier.set_channels(3)
    classifier.forget_channels()
    expected = None if error is None else _read_expected(error, count)
    if expected is not None:
        raise UsageError(
            f"images {tuple(images.shape)} have {count} channels, but the model takes {expected}",
            f"pass images of shape (B, {expected}, H, W)",
        )


def size_error(name: str, size: tuple[int, int], error: Exception) -> InputError:
    """Return the InputError of a model that does not accept images of this height and width.

    error: the exception that the model raised; its first line becomes part of the message.
    """
    return InputError(
        f"{name} does not accept images of {size[0]} x {size[1]} pixels ({first_line(error)})",
        "use another --image-size",
    )


def _run(classifier: Classifier, channels: int) -> object:
    """Return the output of the network for images of noise of this number of channels, RGB for one."""
    classifier.set_channels(channels)
    return classifier.run_network(make_noise(classifier, TRIAL_ROWS))


def make_noise(classifier: Classifier, rows: int) -> Tensor:
    """Return images of noise (rows, C, H, W), always the same: neither constant nor symmetric."""
    generator = torch.Generator().manual_seed(0)
    shape = (rows, classifier.input_channels, *classifier.size)
    return torch.rand(shape, generator=generator, dtype=classifier.dtype).to(classifier.device)


def list_candidates(classifier: Classifier, errors: dict[int, Exception]) -> Iterator[int]:
    """Yield the numbers of channels to try.

    A normalization with several values determines the number; with three values, the network may also take one channel of gray
    values. One channel is tried after the numbers of the layers, because sums over channels broadcast it.
    errors: the errors of the numbers that were tried, which may name another number.
    """
    count, is_neutral = max(len(classifier.mean), len(classifier.std)), not classifier.is_normalized
    if count > 1 and not (is_neutral and count == 3):
        yield from (3, 1) if count == 3 else (count,)
        return
    tried = set[int]()
    declared = _declared_channels(classifier.model)
    layers = _layer_channels(classifier.model, classifier.size)
    usual = (*layers, 1, 3) if count == 1 and not classifier.is_black_box else (3, *layers, 1)
    others = () if classifier.is_black_box else COMMON_COUNTS  # calls of a black box may cost much
    for channels in (*declared, *usual, *others):
        if channels not in tried:
            tried.add(channels)
            yield channels
            if channels in errors:
                expected = _read_expected(errors[channels], channels)
                if expected is not None and expected not in tried:
                    tried.add(expected)
                    yield expected


def _declared_channels(model: nn.Module) -> list[int]:
    """Return the number that the module declares as ``channels``, ``in_chans`` or in its configuration, if any."""
    config = getattr(model, "config", None)
    values = (
        getattr(model, "channels", None),
        getattr(model, "in_chans", None),
        getattr(config, "num_channels", None),
    )
    return [value for value in values if type(value) is int and value > 0][:1]


def _layer_channels(model: nn.Module, size: tuple[int, int]) -> list[int]:
    """Return the numbers of input channels that the layers may have, in order.

    They are read from convolutions, from linear layers on all pixels, from other parameters with one value per pixel, and from
    buffers with one value per channel, such as the mean of a normalization.
    """
    numbers: dict[int, None] = {}
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            numbers[module.in_channels] = None
        elif isinstance(module, nn.Linear):
            channels, rest = divmod(module.in_features, size[0] * size[1])
            if channels and not rest:
                numbers[channels] = None
        else:
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 4 or (parameter.ndim == 3 and parameter.shape[1:] == size):
                    numbers[parameter.shape[-3]] = None
    for buffer in model.buffers():
        if buffer.ndim in (3, 4) and buffer.shape[-2:] == (1, 1) and buffer.shape[-3] > 1:
            numbers[buffer.shape[-3]] = None
    return list(numbers)[:MAX_LAYERS]


def _read_expected(error: Exception, channels: int) -> int | None:
    """Return the number of channels that a convolution expects of its input of ``channels``, according to its error."""
    match = EXPECTED.search(str(error))
    return int(match[2]) if match and int(match[1]) == channels else None


def _check_normalization(classifier: Classifier, errors: dict[int, Exception]) -> None:
    """Raise ChannelError if the network accepts another number of channels than the normalization has."""
    count = max(len(classifier.mean), len(classifier.std))
    if count == 1 or not classifier.is_normalized:
        return
    mean, std = classifier.mean, classifier.std
    expected = [_read_expected(error, channels) for channels, error in errors.items()]
    candidates = [*filter(None, expected), 3, *_layer_channels(classifier.model, classifier.size)]
    classifier.mean, classifier.std = mean.new_zeros(1, 1, 1), std.new_ones(1, 1, 1)
    try:
        for channels in dict.fromkeys(candidates):
            try:
                _run(classifier, channels)
            except SHAPE_ERRORS:
                continue
            attribute = "mean" if len(mean) == count and bool(mean.any()) else "std"
            raise ChannelError(
                f"the model's {attribute!r} has {count} values, but {classifier.name} takes {channels} channels",
                "set one value per channel, or a single one",
            )
    finally:
        classifier.mean, classifier.std = mean, std
        classifier.set_channels(count)


def _most_telling(errors: dict[int, Exception]) -> tuple[int, Exception]:
    """Return the number of channels and the error to report: the first that does not complain about the channels."""
    return next((entry for entry in errors.items() if "channels" not in str(entry[1])), next(iter(errors.items())))
