"""Mechanisms whose main change is the pipeline's bias stage, one module each, imported by the registry."""
