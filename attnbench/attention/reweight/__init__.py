"""Mechanisms whose main change is the pipeline's reweight stage, one module each, imported by the
registry.
"""
