"""Maps of known quality."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from xplain.known import MECHANISMS
from xplain.known.ladder import KINDS, PAIRS, RUNGS, make_ladder, rung_name, rung_pairs
from xplain.metrics.relevance_auroc import area_under_roc, average_precision

PLANTED = MECHANISMS["linear-sparse"].plant(0, 0)  # 96 of 1024 pixels are relevant
INSIDE = PLANTED.relevant[0].flatten() == 1
LADDER = make_ladder(PLANTED, 0, 0, "linear-sparse/0")


def auroc(name: str) -> float:
    return float(area_under_roc(LADDER[name].flatten(), INSIDE))


def test_quality_falls_along_every_kind():
    for kind in ("swap", "miss", "spill"):
        values = [auroc(rung_name(kind, share)) for share in RUNGS]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(RUNGS)
    for share in RUNGS:
        alarms = share * 96 / 928
        expected = (1 - share) * (1 - alarms / 2) + share * (1 - alarms) / 2
        assert auroc(rung_name("swap", share)) == pytest.approx(expected, abs=0.06)
        assert auroc(rung_name("miss", share)) == pytest.approx(1 - share / 2, abs=0.06)
    spill = [auroc(rung_name("spill", share)) for share in RUNGS]
    assert spill[-1] == pytest.approx(1 - 0.5 * 96 / 928, abs=0.01)
    assert float(average_precision(LADDER["spill 1"].flatten(), INSIDE)) == pytest.approx(0.5, abs=0.08)
    assert len(rung_pairs()) == 15


def test_rungs_are_nested():
    best = LADDER["best"]
    for kind in ("swap", "miss", "spill", "sign"):
        changed = [(LADDER[rung_name(kind, share)] != best).flatten() for share in RUNGS[1:]]
        for smaller, larger in pairwise(changed):
            assert bool((larger | ~smaller).all())
        touched = 96 * 2 if kind == "swap" else 96
        assert int(changed[-1].sum()) == touched
        assert int(changed[0].sum()) == round(0.1 * 96) * touched // 96
    assert torch.equal(LADDER["sign 1"].flatten()[INSIDE], -best.flatten()[INSIDE])
    assert set(KINDS) == {"swap", "miss", "spill", "blur", "sign"}


@pytest.mark.parametrize("name", ["linear-sparse", "gate", "saturated", "texture", "colour", "cancel"])
def test_pairs_have_equal_quality(name):
    planted = MECHANISMS[name].plant(0, 0)
    for i in range(2):
        ladder = make_ladder(planted, i, 0, f"{name}/{i}")
        counted = ~planted.relevant[i].flatten().isnan()
        inside = planted.relevant[i].flatten()[counted] == 1
        for first, second in PAIRS.values():
            maps = [ladder[key].flatten()[counted] for key in (first, second)]
            assert not torch.equal(*maps)
            if "tail" not in first:
                for part in (inside, ~inside):
                    assert torch.equal(maps[0][part].sort().values, maps[1][part].sort().values)
            aurocs = [float(area_under_roc(values, inside)) for values in maps]
            assert aurocs[0] == aurocs[1]
            assert 0.55 < aurocs[0] < 0.95


def test_ladder_depends_on_seed_and_image_only():
    again = make_ladder(PLANTED, 0, 0, "linear-sparse/0")
    assert all(torch.equal(LADDER[name], again[name]) for name in LADDER)
    other = make_ladder(PLANTED, 0, 1, "linear-sparse/0")
    assert not torch.equal(LADDER["swap 0.5"], other["swap 0.5"])
    assert torch.equal(LADDER["reversed"], -LADDER["best"])
    assert int(LADDER["center"].argmax()) in (15 * 32 + 15, 15 * 32 + 16, 16 * 32 + 15, 16 * 32 + 16)
