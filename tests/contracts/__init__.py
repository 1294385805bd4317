"""Contract tests: properties of every registered method and metric."""

from xplain.core.registry import MethodSpec

SIZES = {"isa": {"block": 100}}  # parameters whose lower values mean more work


def quick(spec: MethodSpec, few: int = 4) -> dict[str, int]:
    """Return settings that lower all integer parameters (steps, samples, masks, pixels) to ``few``; a run takes milliseconds."""
    lowered = {
        parameter.name: few
        for parameter in spec.parameters.values()
        if parameter.kind is int and (parameter.default or 0) > few
    }
    return lowered | SIZES.get(spec.name, {})
