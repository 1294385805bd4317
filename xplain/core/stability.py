"""Result types of stability: how much of a map stays when the method runs again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

StabilityLevel = Literal["off", "quick", "full"]
SOURCES = ("draws", "rounding", "noise")  # what changes between the repeats
SHARE = 0.1  # of the pixels, the highest of which are compared; also the overlap by chance
UNSTABLE, SENSITIVE = 0.5, 0.9  # below which a map is called unstable, or sensitive to rounding
RELIABLE = 0.95  # correlation of two maps of independent draws
FULL_HINT = "not measured: it does not fit into the rows of quick; full measures it"


class Look(NamedTuple):
    """What a picture shows of an attribution, one value per pixel: how channels are reduced, and values of which sign are ranked first.

    reduce: sum, mean, abs-sum or max. sign: signed and positive rank the highest values first, negative the lowest, absolute the
    magnitudes.
    """

    reduce: str = "sum"
    sign: str = "signed"

    @classmethod
    def of(cls, reduce: str, sign: str) -> Look:
        """Return the look of the options of a picture. Pictures of signed maps show magnitudes of both signs."""
        return cls(reduce, "absolute" if sign == "signed" else sign)

    @property
    def is_linear(self) -> bool:
        """Whether the value of a pixel is a multiple of its channel sum."""
        return self.reduce in ("sum", "mean") and self.sign != "absolute"

    def apply(self, attributions: Tensor) -> Tensor:
        """Return (B, H, W) of attributions (B, C, H, W), the most visible pixels highest."""
        match self.reduce:
            case "mean":
                values = attributions.mean(dim=1)
            case "abs-sum":
                values = attributions.abs().sum(dim=1)
            case "max":
                values = attributions.abs().amax(dim=1)
            case _:
                values = attributions.sum(dim=1)
        if self.sign == "negative":
            return -values
        return values.abs() if self.sign == "absolute" else values

    def __str__(self) -> str:
        return f"{self.reduce}, {self.sign}"


SIGNED_SUM = Look()


class Marks(NamedTuple):
    """The pixels (H, W) that several maps of one image have among their highest tenth.

    shares: float, the share of the maps. repeats: the number of repeats by source; the reported map is one more.
    """

    shares: Tensor
    repeats: Mapping[str, int]

    @property
    def maps(self) -> int:
        """Number of maps, with the reported one."""
        return 1 + sum(self.repeats.values())

    @property
    def always(self) -> Tensor:
        """(H, W) bool: in every map."""
        return self.shares == 1

    @property
    def mostly(self) -> Tensor:
        """(H, W) bool: in at least half of the maps."""
        return self.shares >= 0.5

    @property
    def sometimes(self) -> Tensor:
        """(H, W) bool: in some, but fewer than half of the maps."""
        return (self.shares > 0) & (self.shares < 0.5)

    def describe(self) -> dict[str, Any]:
        """Return the record entry: the number of maps, the part of the highest tenth that is in all, and shares of the image."""
        pixels = self.shares.numel()
        is_partial = (self.shares > 0) & (self.shares < 1)
        return {
            "maps": self.maps,
            "repeats": dict(self.repeats),
            "core": _number(int(self.always.sum()) / max(round(SHARE * pixels), 1)),
            "always": _number(int(self.always.sum()) / pixels),
            "not_always": _number(int(is_partial.sum()) / pixels),
        }


@dataclass(frozen=True, eq=False)
class SourceStability:
    """Similarities of the maps of B images to their K repeats, for one source of change.

    overlaps: (B, K) float64, the share of the highest tenth of the pixels that stays; NaN where undefined or not kept.
    correlations: (B, K) float64, Spearman's rank correlation; NaN where undefined or not kept.
    kept: (B, K) bool, whether the repeat counts.
    constant: (B,) bool, whether every repeat equals the map bit for bit, or must do so.
    ties: (B,) number of pixels that have the lowest value of the highest tenth.
    repeats: the number of repeats that were requested.
    undefined: dict that maps each reason to a mask (B,) of the images without overlap.
    facts: other entries of the record, such as the radius of the noise. image_facts: those that differ between images.
    votes: (B, H, W) int32, the number of repeats that count and have a pixel among their highest tenth; None if the method did not run
    again.
    """

    overlaps: Tensor
    correlations: Tensor
    kept: Tensor
    constant: Tensor
    ties: Tensor
    repeats: int
    undefined: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    image_facts: Sequence[Mapping[str, Any]] = ()
    votes: Tensor | None = None

    @property
    def top10(self) -> Tensor:
        """(B,) mean overlap of the repeats that count; NaN if undefined."""
        return self._mean(self.overlaps)

    @property
    def spearman(self) -> Tensor:
        """(B,) mean rank correlation of the repeats that count; NaN if undefined."""
        return self._mean(self.correlations)

    def _mean(self, values: Tensor) -> Tensor:
        """Return the mean (B,) over the repeats that count; NaN where there is none or one is undefined."""
        total = values.where(self.kept, values.new_zeros(())).sum(dim=1)
        return total / self.kept.sum(dim=1)

    def cpu(self) -> SourceStability:
        """Return a copy on the CPU."""
        return replace(
            self,
            overlaps=self.overlaps.cpu(),
            correlations=self.correlations.cpu(),
            kept=self.kept.cpu(),
            constant=self.constant.cpu(),
            ties=self.ties.cpu(),
            undefined={reason: mask.cpu() for reason, mask in self.undefined.items()},
            votes=None if self.votes is None else self.votes.cpu(),
        )

    def reason(self, i: int) -> str | None:
        """Return why image ``i`` has no overlap, or None."""
        return next((text for text, mask in self.undefined.items() if bool(mask[i])), None)

    def describe(self, i: int) -> dict[str, Any]:
        """Return the record entry of image ``i``."""
        overlaps = self.overlaps[i][self.kept[i]].tolist()
        top10, reason = float(self.top10[i]), self.reason(i)
        is_defined = top10 == top10
        entry: dict[str, Any] = {
            "spearman": _number(float(self.spearman[i])),
            "top10": _number(top10),
            "least": _number(min(overlaps)) if is_defined else None,
            "repeats": self.repeats,
        }
        if bool(self.constant[i]):
            entry["constant"] = True
        if int(self.ties[i]) > 1:
            entry["ties"] = int(self.ties[i])
        if reason is not None:
            entry["undefined"] = reason
        if not bool(self.kept[i].all()) or "radius" in self.facts:
            entry["kept"] = int(self.kept[i].sum())
        return entry | dict(self.facts) | dict(self.image_facts[i] if self.image_facts else {})


@dataclass(frozen=True, eq=False)
class Stability:
    """Stability of the maps of a batch of images.

    level: quick or full. rows: forward rows of all repeats per image, with those of checks.
    sources: the result of each source, or why there is none.
    look: what of the maps is compared. highest: (B, H, W) bool, the highest tenth of the reported maps, or None.
    """

    level: StabilityLevel
    sources: Mapping[str, SourceStability | str]
    rows: float
    look: Look = SIGNED_SUM
    highest: Tensor | None = None

    def cpu(self) -> Stability:
        """Return a copy on the CPU."""
        sources = {name: result if isinstance(result, str) else result.cpu() for name, result in self.sources.items()}
        return replace(self, sources=sources, highest=None if self.highest is None else self.highest.cpu())

    def marks(self, i: int) -> Marks | None:
        """Return the pixels that the map of image ``i`` and its repeats mark; None if no repeat counts or the overlap is undefined."""
        if self.highest is None:
            return None
        votes, repeats = self.highest[i].int(), dict[str, int]()
        for name, result in self.sources.items():
            if not isinstance(result, str) and result.votes is not None and result.reason(i) is None:
                votes = votes + result.votes[i]
                repeats[name] = int(result.kept[i].sum())
        return Marks(votes / (1 + sum(repeats.values())), repeats) if repeats else None

    def _means(self, i: int) -> dict[str, float]:
        """Return the mean overlap of image ``i`` by source, where it is defined."""
        results = {name: result for name, result in self.sources.items() if not isinstance(result, str)}
        means = {name: float(result.top10[i]) for name, result in results.items()}
        return {name: mean for name, mean in means.items() if mean == mean}

    def figure(self, i: int) -> tuple[float, str] | None:
        """Return the smallest mean overlap of image ``i`` and its source, or None if no source is defined."""
        means = self._means(i)
        if not means:
            return None
        source = min(means, key=lambda name: means[name])
        return means[source], source

    def warnings(self, i: int) -> list[str]:
        """Return the warnings of image ``i``."""
        warnings = []
        figure, means = self.figure(i), self._means(i)
        if figure is not None and figure[0] < UNSTABLE:
            warnings.append(f"unstable: stability {figure[0]:.2f} ({figure[1]}){self._advise(i, figure[1])}")
        if means.get("rounding", 1.0) < SENSITIVE:
            warnings.append(f"sensitive to rounding: stability {means['rounding']:.2f}")
        noise = self.sources.get("noise")
        if isinstance(noise, SourceStability) and not bool(noise.kept[i].all()):
            changed = noise.repeats - int(noise.kept[i].sum())
            warnings.append(f"the prediction changes under {changed} of {noise.repeats} small changes of the image")
        return warnings

    def _advise(self, i: int, source: str) -> str:
        """Return how many samples make the map of image ``i`` reliable, if that is known and the source is the draws."""
        result = self.sources[source]
        if source != "draws" or isinstance(result, str) or not result.image_facts:
            return ""
        facts = result.image_facts[i]
        if facts["samples_needed"] is None:
            return ""
        return (
            f"; about {facts['samples_needed']} samples instead of {facts['samples']} reach a reliability of {RELIABLE}"
        )

    def describe(self, i: int) -> dict[str, Any]:
        """Return the record of image ``i``."""
        figure, marks = self.figure(i), self.marks(i)
        value = None if figure is None else figure[0]
        entries: dict[str, Any] = {}
        reasons = {}
        for name in SOURCES:
            result = self.sources[name]
            entries[name] = None if isinstance(result, str) else result.describe(i)
            if isinstance(result, str):
                reasons[name] = result
        return {
            "level": self.level,
            "figure": value if value is None else _number(value),
            "source": None if figure is None else figure[1],
            "chance": SHARE,
            "kappa": None if value is None else _number((value - SHARE) / (1 - SHARE)),
            **entries,
            "reasons": reasons,
            "marks": None if marks is None else marks.describe(),
            "look": str(self.look),
            "rows": round(self.rows, 2),
            "warnings": self.warnings(i),
        }


def _number(value: float) -> float | None:
    """Return a number with four decimals, or None for NaN."""
    return round(value, 4) if value == value else None
