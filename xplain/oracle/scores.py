"""The scalar that is explained, out of the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.core.types import ScoreKind


def compute_scores(logits: Tensor, y: Tensor, kind: ScoreKind, against: Tensor | None = None) -> Tensor:
    """The scalar that is explained, for each row.

    logits: (rows, classes). y: (rows,) target classes, or (rows, S) to read S classes of each row.
    kind: logit; prob = softmax; log-prob = log softmax; margin = the target's logit minus the largest other one.
    against: (rows, A) classes; the score becomes target minus the mean of the others (margin: minus their largest).
    """
    if kind == "margin" and y.ndim == 2:
        return torch.stack([compute_scores(logits, each, kind) for each in y.unbind(dim=1)], dim=1)
    if kind == "margin":
        contrasts = logits.scatter(1, y[:, None], -torch.inf) if against is None else logits.gather(1, against)
        return logits.gather(1, y[:, None])[:, 0] - contrasts.amax(dim=1)
    values = {"logit": lambda z: z, "prob": lambda z: z.softmax(1), "log-prob": lambda z: z.log_softmax(1)}[kind](
        logits
    )
    if y.ndim == 2:
        return values.gather(1, y)
    score = values.gather(1, y[:, None])[:, 0]
    return score if against is None else score - values.gather(1, against).mean(dim=1)
