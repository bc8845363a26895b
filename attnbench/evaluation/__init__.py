"""What a trained model is worth: accuracy and calibration, and what is left of them under attack."""

from attnbench.evaluation.calibration import adaptive_ece, at_temperature, fit_temperature
from attnbench.evaluation.evaluate import evaluate
from attnbench.evaluation.gates import attack_gates
from attnbench.evaluation.quality import figures, quality, tally
from attnbench.evaluation.robustness import check_kinds, robustness

__all__ = [
    "adaptive_ece",
    "at_temperature",
    "attack_gates",
    "check_kinds",
    "evaluate",
    "figures",
    "fit_temperature",
    "quality",
    "robustness",
    "tally",
]
