"""Mechanisms whose main change is the pipeline's normalise stage, one module each, imported by the
registry.
"""
