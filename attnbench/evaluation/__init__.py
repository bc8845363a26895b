"""What a trained model is worth: accuracy and calibration, and what is left under attack."""

from attnbench.evaluation.evaluate import evaluate
from attnbench.evaluation.quality import figures, quality, tally

__all__ = ["evaluate", "figures", "quality", "tally"]
