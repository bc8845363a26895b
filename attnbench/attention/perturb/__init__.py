"""Mechanisms whose main change is the pipeline's perturb stage, one module each, imported by the registry."""
