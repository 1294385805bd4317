"""Metric presets of published evaluations, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

from xplain.core.config import Choice
from xplain.core.errors import UsageError, did_you_mean

DEFAULT_PROTOCOL = "xplain"  # if no metric is given


@dataclass(frozen=True)
class Protocol:
    """A preset of metrics and parameters.

    metrics: as in the option -M. source: the publication or code that uses them. unknown: settings that the source does not state.
    """

    name: str
    metrics: tuple[str, ...]
    source: str
    unknown: str = ""


_PROTOCOLS = (
    Protocol(
        DEFAULT_PROTOCOL, ("insertion", "deletion"), "xplain's own: black baseline, pixels ranked by the channel sum"
    ),
    Protocol(
        "rise",
        ("insertion:steps=224,baseline=rise-blur", "deletion:steps=224,baseline=mean"),
        "Petsiuk et al. 2018 and its code: blurred start, zero of the normalized input as fill",
    ),
    Protocol(
        "agi",
        ("insertion:steps=224,unit=union3,area=mean", "deletion:steps=224,unit=union3,area=mean"),
        "the AGI code: black, union of the channels' orders, plain mean of 225 values",
    ),
    Protocol(
        "mfaba",
        ("insertion:steps=224,unit=union3", "deletion:steps=224,unit=union3"),
        "the MFABA code: black, union of the channels' orders, trapezoid",
        "the paper's own number and choice of images",
    ),
    Protocol(
        "neflag",
        ("insertion:baseline=black+blur", "deletion:baseline=black+blur", "difference:baseline=black+blur"),
        "Li et al. 2023, section 5: rounds with a black and a blurred baseline, averaged",
        "the blur, the step, the image size, the class explained, the ranking of channels",
    ),
    Protocol(
        "dga",
        ("morf", "lerf"),
        "Jeon et al. 2022, section 4.1: zero of the normalized input as fill",
        "the fill and the number of steps; the class explained",
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _PROTOCOLS}


def get_protocol(name: str) -> Protocol:
    """Return the protocol with the given name. Raise UsageError, with similar names as a hint, if there is none."""
    if name not in PROTOCOLS:
        raise UsageError(
            f"unknown protocol {name!r}", did_you_mean(name, PROTOCOLS, f"choose from {', '.join(PROTOCOLS)}")
        )
    return PROTOCOLS[name]


def choose_metrics(protocol: str | None, given: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """Return the metrics of a run: ``given``, or the protocol's if none is given.

    The parameters of a given metric default to the protocol's, if it has that metric. Without a protocol, the default is
    used only if no metric is given.
    """
    preset = [Choice.parse(text) for text in get_protocol(protocol or DEFAULT_PROTOCOL).metrics]
    if not given:
        return tuple(preset)
    defaults = {choice.name: dict(choice.params) for choice in preset} if protocol else {}
    return tuple(_with_defaults(choice, defaults.get(choice.name, {})) for choice in given)


def _with_defaults(choice: Choice, defaults: dict[str, str]) -> Choice:
    return Choice(choice.name, tuple((defaults | dict(choice.params)).items()))
