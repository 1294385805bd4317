"""Contracts: what holds for every method, or for every metric, by its registration."""

from xplain.core.registry import MethodSpec

SIZES = {"isa": {"block": 100}}  # where a lower number means more work


def quick(spec: MethodSpec, few: int = 4) -> dict[str, int]:
    """Whole-number parameters (steps, samples, masks, pixels) lowered to ``few``, so that a run takes milliseconds."""
    lowered = {each.name: few for each in spec.parameters.values() if each.kind is int and (each.default or 0) > few}
    return lowered | SIZES.get(spec.name, {})
