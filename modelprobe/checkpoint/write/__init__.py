"""Writing weight files."""
