"""The faithfulness metrics: one file each. Importing one registers it, and this is the only list of them."""

# isort: off
from xplain.metrics import perturbation as perturbation
