"""Attention maps of transformers."""
