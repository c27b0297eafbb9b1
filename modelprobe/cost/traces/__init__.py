"""Recorded runs as such: listed, changed, kept as files."""
