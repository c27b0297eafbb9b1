"""Readers of weight files: one file for each format, from the bytes to a `Checkpoint`.

To add a format, follow the recipe in `modelprobe guide architecture`.
"""
