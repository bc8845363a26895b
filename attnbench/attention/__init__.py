"""Attention mechanisms: one pipeline with named stages, and the mechanisms that replace them.

layer = build(["alibi", {"name": "relaxed", "gamma": 0.1}], width=64, heads=4, causal=True)
out, aux = layer(x, key_mask=mask, need_weights=True)
"""

from attnbench.attention.building import build, refuse_idle, shared_modules
from attnbench.attention.context import Aux, Context, Valid
from attnbench.attention.draws import Draws
from attnbench.attention.initialise import seed_parameters
from attnbench.attention.layer import AttentionLayer
from attnbench.attention.mechanism import SITES, STAGES, LayerShape, Mechanism, Parameters
from attnbench.attention.plan import Plan
from attnbench.attention.registry import find, mechanisms, register
from attnbench.attention.specification import canonical, describe, sequence_parameters

__all__ = [
    "SITES", "STAGES", "AttentionLayer", "Aux", "Context", "Draws", "LayerShape", "Mechanism", "Parameters",
    "Plan", "Valid", "build", "canonical", "describe", "find", "mechanisms", "refuse_idle", "register",
    "seed_parameters", "sequence_parameters", "shared_modules",
]  # fmt: skip
