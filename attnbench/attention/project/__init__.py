"""Mechanisms whose main change is the pipeline's project stage, one module each, imported by the registry."""
