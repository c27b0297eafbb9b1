"""Commands: the environment and the guide."""
