"""The first operator where two runs part."""
