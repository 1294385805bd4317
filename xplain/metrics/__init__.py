"""Evaluation metrics, one module each. Importing a module registers its metrics; they are listed in this order."""

# isort: off
from xplain.metrics import perturbation as perturbation
from xplain.metrics import completeness as completeness
from xplain.metrics import sensitivity_n as sensitivity_n
from xplain.metrics import information_curves as information_curves
from xplain.metrics import road as road
from xplain.metrics import infidelity as infidelity
from xplain.metrics import max_sensitivity as max_sensitivity
from xplain.metrics import parameter_randomisation as parameter_randomisation
from xplain.metrics import label_randomisation as label_randomisation
from xplain.metrics import pointing_game as pointing_game
from xplain.metrics import roar as roar
