"""How long a model takes: measured here, or predicted for a device that is not here."""
