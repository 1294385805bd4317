"""A fixed sample of the random networks of ``make stress``."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.tools.stress import try_case

CASES = 200
PARTS = 10  # so that the workers of pytest share the cases


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(PARTS))
def test_random_networks_agree_with_row_by_row_evaluation(part):
    outcomes = dict(try_case(seed) for seed in range(part, CASES, PARTS))
    assert {seed: text for seed, text in outcomes.items() if text.startswith("FAULT")} == {}
    counts = Counter(text.partition(":")[0] for text in outcomes.values())
    assert counts["agrees"] >= CASES // PARTS // 4  # about two thirds of all cases are not refused
