"""Activations of layers for an image."""
