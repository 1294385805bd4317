"""Flag the maps whose sum differs from the score difference that the method claims to explain."""

from __future__ import annotations

from dataclasses import replace

from xplain.core.types import Attribution

GAP_SHARE = 0.1  # largest gap without a flag, as a share of the score difference
ROUNDING_SHARE = 1e-5  # of the absolute sum of the map: smaller gaps are rounding
GAP_FLAG = "the completeness gap exceeds 10 % of the score difference"


def flag_completeness_gaps(result: Attribution) -> Attribution:
    """Return the attribution with a flag for the images whose completeness gap exceeds ``GAP_SHARE`` of the score difference.

    Maps that are zero everywhere have flags of their own. Methods that do not satisfy completeness get no flag.
    """
    if result.expected is None or result.gap is None:
        return result
    gap = result.gap.abs()
    absolute_sum = result.values.double().abs().sum(dim=(1, 2, 3))
    exceeds = (gap > GAP_SHARE * result.expected.double().abs()) & (gap > ROUNDING_SHARE * absolute_sum)
    return replace(result, flags=result.flags | {GAP_FLAG: exceeds & (absolute_sum > 0)})
