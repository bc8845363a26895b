"""The papers' mathematics once more, in float64 numpy loops that share no code with the package."""
