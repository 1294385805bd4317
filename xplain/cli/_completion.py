"""Shell completion of names, without importing torch, which would keep every TAB waiting."""

from __future__ import annotations

from collections.abc import Iterable

import xplain.methods
import xplain.metrics  # noqa: F401  (importing declares the names)
from xplain.cli._model_names import TORCHVISION_NAMES
from xplain.core.config import EMBEDDED
from xplain.core.protocols import PROTOCOLS
from xplain.core.registry import METHODS, METRICS

PREFIXES = ("timm:", "python:", "script:", "export:")


def complete_method(incomplete: str) -> list[str]:
    """Return the methods that start with ``incomplete``."""
    return _matching(incomplete, METHODS.names)


def complete_metric(incomplete: str) -> list[str]:
    """Return the metrics that start with ``incomplete``."""
    return _matching(incomplete, METRICS.names)


def complete_paper(incomplete: str) -> list[str]:
    """Return the methods and metrics that start with ``incomplete``."""
    return complete_method(incomplete) + complete_metric(incomplete)


def complete_protocol(incomplete: str) -> list[str]:
    """Return the protocols that start with ``incomplete``."""
    return [name for name in PROTOCOLS if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Return the embedded model, torchvision's models and the prefixes of others that start with ``incomplete``."""
    return [name for name in (EMBEDDED, *TORCHVISION_NAMES, *PREFIXES) if name.startswith(incomplete)]


def _matching(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
