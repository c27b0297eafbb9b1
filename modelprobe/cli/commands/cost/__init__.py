"""Commands: what a model costs."""
