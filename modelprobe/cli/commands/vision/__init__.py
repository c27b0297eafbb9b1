"""Commands: what a model sees."""
