"""Known truth: networks whose mechanism was planted, images for them, and the maps that explain them.

To add a mechanism, write one function with the decorator ``mechanism`` in a module that is imported here.
``xplain list known`` uses the order of these modules and of the functions in them.
"""

from xplain.known import linear_mechanisms, gate_mechanisms, pixel_mechanisms, trained_mechanisms  # noqa: F401, I001  (order of the list)
from xplain.known.registry import MECHANISMS, Mechanism, find_mechanisms, mechanism
from xplain.known.truth import BLOCK, GRID, SIDE, Draw, Planted

__all__ = ["BLOCK", "GRID", "MECHANISMS", "SIDE", "Draw", "Mechanism", "Planted", "find_mechanisms", "mechanism"]
