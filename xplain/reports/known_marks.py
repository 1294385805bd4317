"""Digests of what determines the results of a method or a metric on known truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xplain.core.run_store import settings_digest
from xplain.known.ladder import VERSION as LADDER_VERSION
from xplain.known.registry import VERSION

TRUTH = "known-truth"  # in place of the name of a metric
LADDER = "known-ladder"  # in place of the name of a method


def method_mark(method: Mapping[str, Any]) -> str:
    """Return the digest of a method, from its description in ``run.json``, and of the mechanisms."""
    return settings_digest(method, {"metric": TRUTH, "params": {}, "version": VERSION, "better": "higher", "unit": ""})


def metric_mark(metric: Mapping[str, Any]) -> str:
    """Return the digest of a metric, from its description in ``run.json``, and of the maps that it grades."""
    versions = {"mechanisms": VERSION}
    ladder = {"method": LADDER, "params": versions, "score": "logit", "method_version": LADDER_VERSION}
    return settings_digest(ladder, metric)
