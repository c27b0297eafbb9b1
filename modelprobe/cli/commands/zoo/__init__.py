"""Commands: many models."""
