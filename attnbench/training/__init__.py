"""One trial from configuration to figures: engine, loop, gradient statistics, checkpoints.

    from attnbench.training import TrialConfig, run_trial

Names are looked up on first use: reading a configuration imports neither DeepSpeed nor the loop.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.training.checkpoint import load_model
    from attnbench.training.config import (
        DeepSpeedConfig,
        MeasureConfig,
        ResourcesConfig,
        TrainConfig,
        TrialConfig,
        canonical_json,
    )
    from attnbench.training.gradients import gradient_statistics
    from attnbench.training.measuring import paired_gradient_statistics
    from attnbench.training.objectives import OBJECTIVES, canonical_objective
    from attnbench.training.reading import read_config
    from attnbench.training.trial import Trial, TrialResult, run_trial

HOMES = {
    "DeepSpeedConfig": "config",
    "MeasureConfig": "config",
    "ResourcesConfig": "config",
    "TrainConfig": "config",
    "TrialConfig": "config",
    "canonical_json": "config",
    "read_config": "reading",
    "load_model": "checkpoint",
    "gradient_statistics": "gradients",
    "paired_gradient_statistics": "measuring",
    "OBJECTIVES": "objectives",
    "canonical_objective": "objectives",
    "Trial": "trial",
    "TrialResult": "trial",
    "run_trial": "trial",
}

__all__ = [
    "OBJECTIVES",
    "DeepSpeedConfig",
    "MeasureConfig",
    "ResourcesConfig",
    "TrainConfig",
    "Trial",
    "TrialConfig",
    "TrialResult",
    "canonical_json",
    "canonical_objective",
    "gradient_statistics",
    "load_model",
    "paired_gradient_statistics",
    "read_config",
    "run_trial",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'attnbench.training' has no attribute '{name}'")
    return getattr(importlib.import_module(f"attnbench.training.{HOMES[name]}"), name)
