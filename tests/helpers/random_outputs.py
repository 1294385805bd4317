"""Ends of random networks: what they return, what users say about it, and what xplain must make of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Output:
    """The end of a network whose head returns values (B, columns).

    ends: functions that make the output of the network from the values, one after the other.
    activation: the expected activation. options: arguments of ``load_classifier``.
    is_shifted: the expected logits differ from the values by a constant per image.
    is_tensor: the network returns one tensor (B, columns) for any number of images.
    refusal: a part of the error that must come; empty if the model can be explained.
    """

    columns: int
    ends: list[Callable[..., object]] = field(default_factory=list)
    activation: str = "softmax"
    options: dict[str, Any] = field(default_factory=dict)
    is_shifted: bool = False
    is_tensor: bool = True
    refusal: str = ""


@dataclass
class Named:
    """An output with names. loss: not a tensor, as in many libraries."""

    logits: Tensor
    embedding: Tensor
    loss: None = None


def _as_dictionary(values: Tensor) -> dict[str, Tensor]:
    return {"embedding": values.new_zeros(len(values), 3, 2), "logits": values}


def _as_dataclass(values: Tensor) -> Named:
    return Named(values, values.new_zeros(len(values), 5))


def _with_age(values: Tensor) -> dict[str, Any]:
    return {"age": values.sum(dim=1, keepdim=True), "heads": {"kind": values}}


def _behind_features(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.flip(1)[:, :1], values


def _formula_softmax(values: Tensor) -> Tensor:
    exponentials = (values - values.amax(dim=1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=1, keepdim=True)


def _formula_sigmoid(values: Tensor) -> Tensor:
    return 1 / (1 + (-values).exp())


def _labels(draw: random.Random) -> int:
    return draw.randint(2, 6)


def _threshold(draw: random.Random) -> float:
    return round(draw.uniform(0.2, 0.8), 2)


def _labels_with_thresholds(draw: random.Random) -> Output:
    count = _labels(draw)
    threshold = draw.choice([_threshold(draw), [_threshold(draw) for _ in range(count)]])
    return Output(count, activation="sigmoid", options={"activation": "sigmoid", "threshold": threshold})


def _contradiction(draw: random.Random) -> Output:
    softmax = Output(3, [nn.Softmax(dim=1)], options={"activation": "sigmoid"}, refusal="the model ends in a softmax")
    sigmoid = Output(3, [nn.Sigmoid()], options={"activation": "softmax"}, refusal="the model ends in a sigmoid")
    return draw.choice([softmax, sigmoid])


SIGMOID = {"activation": "sigmoid"}
NONE = {"activation": "none"}

OUTPUTS: dict[str, Callable[[random.Random], Output]] = {
    "logits": lambda draw: Output(_labels(draw)),
    "logits (B, K, 1, 1)": lambda draw: Output(_labels(draw), [lambda z: z[:, :, None, None]], is_tensor=False),
    "logits, squeezed": lambda draw: Output(_labels(draw), [lambda z: z.squeeze()], is_tensor=False),
    "softmax": lambda draw: Output(_labels(draw), [nn.Softmax(dim=1)]),
    "functional softmax": lambda draw: Output(3, [lambda z: z.softmax(dim=-1)]),
    "softmax by a formula": lambda draw: Output(_labels(draw), [_formula_softmax], is_shifted=True),
    "log-softmax": lambda draw: Output(_labels(draw), [nn.LogSoftmax(dim=1)]),
    "dictionary": lambda draw: Output(4, [_as_dictionary], is_tensor=False),
    "dataclass": lambda draw: Output(_labels(draw), [_as_dataclass], is_tensor=False),
    "tuple": lambda draw: Output(4, [lambda z: (z, z.new_zeros(len(z), 2, 3))], is_tensor=False),
    "named head": lambda draw: Output(3, [_with_age], options={"logits": "heads.kind"}, is_tensor=False),
    "second head": lambda draw: Output(3, [_behind_features], options={"logits": 1}, is_tensor=False),
    "label logits": lambda draw: Output(_labels(draw), activation="sigmoid", options=SIGMOID),
    "label logits, thresholds": _labels_with_thresholds,
    "label probabilities": lambda draw: Output(_labels(draw), [nn.Sigmoid()], "sigmoid"),
    "label probabilities by a formula": lambda draw: Output(_labels(draw), [_formula_sigmoid], "sigmoid"),
    "label log-probabilities": lambda draw: Output(_labels(draw), [nn.LogSigmoid()], "sigmoid"),
    "one logit": lambda draw: Output(1, activation="binary", options=draw.choice([{}, SIGMOID])),
    "one logit, threshold": lambda draw: Output(1, activation="binary", options={"threshold": _threshold(draw)}),
    "one logit, flat": lambda draw: Output(1, [lambda z: z[:, 0]], "binary"),
    "one logit, squeezed": lambda draw: Output(1, [lambda z: z.squeeze()], "binary", is_tensor=False),
    "one probability": lambda draw: Output(1, [nn.Sigmoid()], "binary"),
    "one probability, flat": lambda draw: Output(1, [nn.Sigmoid(), lambda p: p.squeeze(1)], "binary"),
    "one log-probability": lambda draw: Output(1, [nn.functional.logsigmoid], "binary"),
    "one value": lambda draw: Output(1, activation="none", options=NONE),
    "one value, threshold": lambda draw: Output(1, activation="none", options=NONE | {"threshold": 0.1}),
    "values": lambda draw: Output(_labels(draw), activation="none", options=NONE),
    "softmax over one output": lambda draw: Output(1, [nn.Softmax(dim=1)], refusal="a softmax over one output"),
    "decisions": lambda draw: Output(3, [lambda z: z.argmax(dim=1)], refusal="not scores"),
    "map of classes": lambda draw: Output(3, [lambda z: z[:, :, None, None].expand(-1, -1, 2, 2)], refusal="a map of"),
    "contradiction": _contradiction,
}
