"""How the names and shapes in a weight file are made to fit a model."""
