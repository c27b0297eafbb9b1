"""Weights for a model: published ones, those of a file, and whether they fit."""
