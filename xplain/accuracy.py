"""Whether a model does on the labelled images what it should: a wrong label file or class order makes every number meaningless."""

from __future__ import annotations

from math import exp, lgamma, log

ALLOWANCE = 0.15  # other photographs of the same classes: 11 to 14 points on ImageNetV2 (Recht et al. 2019, table 1)
RARE = 0.001  # a warning is wrong once in a thousand runs, or less
LIKELY = 0.01


def accuracy_warnings(right: int, n: int, published: float | None, source: str, classes: int | None) -> list[str]:
    """What is to be said of a top-1 of ``right`` in ``n`` labelled images; nothing where it is as it should be.

    Far under: a model that is right with chance ``published - ALLOWANCE`` would get this few or fewer right with a probability
    under RARE, P(X <= right), X ~ Binomial(n, p). Near chance: this many or more are no rarer than LIKELY where each is
    right with chance 1 / classes, and this few are rarer than RARE half-way between that and always. Few images say little, and
    then nothing is said. published: top-1 share, or None where it is not known; so is classes.
    """
    found = []
    if published is not None and n and _at_most(right, n, published - ALLOWANCE) < RARE:
        found.append(
            f"the model's top-1 on these {n} labelled images is {right / n:.3f}, far under the {published:.3f} that its weights "
            f"publish ({source}); check the labels, the preprocessing and the class order"
        )
    if classes and n:
        chance = 1 / classes
        if 1 - _at_most(right - 1, n, chance) > LIKELY and _at_most(right, n, (1 + chance) / 2) < RARE:
            found.append(
                f"the model's top-1 on these {n} labelled images is {right / n:.3f}, as if it guessed among {classes} classes; "
                "check that its class order is that of the labels (--classes)"
            )
    return found


def _at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    if p <= 0 or k >= n:
        return 1.0
    logs = (lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) + i * log(p) + (n - i) * log(1 - p) for i in range(k + 1))
    return sum(map(exp, logs))
