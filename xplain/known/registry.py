"""The list of mechanisms, and their lookup by the name of a data set: ``known:NAME`` or ``known:all``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from xplain.core.errors import UsageError, did_you_mean
from xplain.core.rng import seed_of
from xplain.known.truth import Draw, Planted

PREFIX = "known:"
VERSION = 1  # of the mechanisms and of the measures; increases when numbers change
ALL = "all"
GROUP = 4  # images that share a network

# What is known: the pixels that the score depends on, the value of each block, the effect of each part, or that nothing matters.
Kind = Literal["set", "value", "parts", "silence"]
Build = Callable[[Draw], Planted]


@dataclass(frozen=True)
class Mechanism:
    """A planted mechanism.

    build: makes the network, the images and the truth of a draw. kind: what is known. summary: what the score is.
    trained: the network is trained instead of written down. draws: name for random draws that several mechanisms share.
    """

    name: str
    kind: Kind
    summary: str
    build: Build
    trained: bool = False
    draws: str = ""

    def plant(self, seed: int, group: int) -> Planted:
        """Return a network with GROUP images. Equal arguments give equal results."""
        return self.build(Draw(seed_of(seed, "known", self.draws or self.name, group), GROUP, seed, group))


MECHANISMS: dict[str, Mechanism] = {}


def mechanism(name: str, **claims: Any) -> Callable[[Build], Build]:
    """Register a function that plants a mechanism, ``function(draw) -> Planted``. Raises ValueError if the name is taken.

    claims: fields of Mechanism.
    """

    def register(build: Build) -> Build:
        if name in MECHANISMS:
            raise ValueError(f"mechanism {name!r} is already registered")
        MECHANISMS[name] = Mechanism(name, build=build, **claims)
        return build

    return register


def find_mechanisms(dataset: str) -> list[Mechanism]:
    """Return the mechanisms of ``known:NAME`` or ``known:all``. Raises UsageError with similar names for an unknown one."""
    name = dataset.removeprefix(PREFIX)
    if name == ALL:
        return list(MECHANISMS.values())
    if name not in MECHANISMS:
        (nearest,) = get_close_matches(name, [*MECHANISMS, ALL], n=1, cutoff=0)
        hint = did_you_mean(name, [*MECHANISMS, ALL], f"did you mean {nearest!r}? xplain list known names all")
        raise UsageError(f"unknown mechanism {name!r} in {dataset!r}", hint)
    return [MECHANISMS[name]]
