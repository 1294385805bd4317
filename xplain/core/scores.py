"""The texts that name a score: ``logit``, ``prob``, ``log-prob``, ``margin``, or ``contrast`` and its parameters."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

ScoreName = Literal["logit", "prob", "log-prob", "margin", "contrast"]
SCORE_KINDS = get_args(ScoreName)
SCORE_FORMAT = "logit, prob, log-prob, margin or contrast[:gamma=G,classes=M]"
_NUMBER = re.compile(r"\d{1,15}")


@dataclass(frozen=True)
class ContrastScore:
    """The score of Finer-CAM: the logit of the target minus ``gamma`` times the mean logit of the contrast classes.

    The contrast classes are those of ``--against``, or the ``classes`` other classes whose logits are nearest to the target's.
    """

    gamma: float = 0.6
    classes: int = 3

    @classmethod
    def parse(cls, text: str) -> ContrastScore | None:
        """Parse ``contrast`` or ``contrast:gamma=0.6,classes=3``; plus signs may replace the commas. Return None for other scores.

        Raises ValueError for a parameter that does not exist, is repeated or is not accepted.
        """
        kind, colon, rest = text.partition(":")
        if kind != "contrast":
            return None
        if not colon:
            return cls()
        values: dict[str, str] = {}
        for part in re.split("[,+]", rest):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in ("gamma", "classes") or name in values:
                raise ValueError(text)
            values[name] = value
        gamma = float(values.get("gamma", cls.gamma))
        if not math.isfinite(gamma) or gamma < 0:
            raise ValueError(text)
        count = values.get("classes", str(cls.classes))
        if not _NUMBER.fullmatch(count) or int(count) < 1:
            raise ValueError(text)
        return cls(gamma, int(count))

    def __str__(self) -> str:
        return f"contrast:gamma={repr(float(self.gamma)).removesuffix('.0')},classes={self.classes}"


def parse_score(text: str) -> str:
    """Return a score in its full form: ``contrast`` becomes ``contrast:gamma=0.6,classes=3``. Raises ValueError for another text."""
    contrast = ContrastScore.parse(text)
    if contrast is not None:
        return str(contrast)
    if text not in SCORE_KINDS:
        raise ValueError(text)
    return text
