"""Adapters: small weights that change those of a network they were trained on (LoRA)."""
