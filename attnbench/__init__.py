"""Trains transformers with every attention mechanism under equal conditions and judges the papers' claims."""

__version__ = "0.1.0"
