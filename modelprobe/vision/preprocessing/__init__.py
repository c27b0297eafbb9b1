"""From an image file to the tensor that a model takes."""
