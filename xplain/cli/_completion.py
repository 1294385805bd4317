"""What a shell offers for names. They are read from the source, since importing torch would keep every TAB waiting."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from xplain.core.protocols import PROTOCOLS

REGISTERED = re.compile(r'^@(?:method|metric)\(\s*"([^"]+)"', re.MULTILINE)
BUILDER = re.compile(r"^@register_model\(\)\n.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
PROGRAMS = ("timm:", "python:", "script:", "export:")


def complete_method(incomplete: str) -> list[str]:
    """Methods that begin so."""
    return _matching(incomplete, _names(Path(__file__).parents[1] / "methods", REGISTERED))


def complete_metric(incomplete: str) -> list[str]:
    """Metrics that begin so."""
    return _matching(incomplete, _names(Path(__file__).parents[1] / "metrics", REGISTERED))


def complete_paper(incomplete: str) -> list[str]:
    """Methods and metrics that begin so."""
    return complete_method(incomplete) + complete_metric(incomplete)


def complete_protocol(incomplete: str) -> list[str]:
    """Protocols that begin so."""
    return _matching(incomplete, list(PROTOCOLS))


def complete_model(incomplete: str) -> list[str]:
    """The embedded model, torchvision's, and the prefixes of the others, that begin so."""
    torchvision = find_spec("torchvision")  # found, not imported
    folders = torchvision.submodule_search_locations or () if torchvision else ()
    builders = [name for folder in folders for name in _names(Path(folder, "models"), BUILDER)]
    return _matching(incomplete, ["efficientnet-lite0", *builders, *PROGRAMS])


def _names(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """Every name that the pattern finds in the folder's Python files."""
    return sorted(name for path in folder.glob("*.py") for name in pattern.findall(path.read_text("utf-8")))


def _matching(incomplete: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
