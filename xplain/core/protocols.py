"""Presets of metrics and parameters under which published figures were made, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

from xplain.core.config import Choice
from xplain.core.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Protocol:
    """metrics: as they would be written for -M. source: where the preset comes from. unknown: what the source leaves open."""

    name: str
    metrics: tuple[str, ...]
    source: str
    unknown: str = ""


PROTOCOLS = {
    each.name: each
    for each in (
        Protocol("xplain", ("insertion", "deletion"), "xplain's own: black baseline, pixels ranked by the channel sum"),
        Protocol(
            "rise",
            ("insertion:steps=224,baseline=rise-blur", "deletion:steps=224,baseline=mean"),
            "Petsiuk et al. 2018 and its program: blurred start, zero of the normalised input as fill",
        ),
        Protocol(
            "agi",
            ("insertion:steps=224,unit=union3,area=mean", "deletion:steps=224,unit=union3,area=mean"),
            "the AGI program: black, union of the channels' orders, plain mean of 225 values",
        ),
        Protocol(
            "mfaba",
            ("insertion:steps=224,unit=union3", "deletion:steps=224,unit=union3"),
            "the MFABA program: black, union of the channels' orders, trapezoid",
            "the paper's own count and choice of images",
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
            "Jeon et al. 2022, section 4.1: zero of the normalised input as fill",
            "the fill and the number of steps; the class explained",
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol of a name. Raises UsageError with near matches."""
    if name not in PROTOCOLS:
        raise UsageError(
            f"unknown protocol {name!r}", did_you_mean(name, PROTOCOLS, f"choose from {', '.join(PROTOCOLS)}")
        )
    return PROTOCOLS[name]


def choose_metrics(protocol: str | None, given: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """The metrics of a run: those given, with the protocol's parameters where it has the metric; else the protocol's."""
    preset = [Choice.parse(text) for text in get_protocol(protocol or "xplain").metrics]
    if not given:
        return tuple(preset)
    known = {choice.name: dict(choice.params) for choice in preset} if protocol else {}
    return tuple(Choice(each.name, tuple((known.get(each.name, {}) | dict(each.params)).items())) for each in given)
