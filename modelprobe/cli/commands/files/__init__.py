"""Commands: weight files."""
