"""What a model needs of memory: the peak of inference or of a training step, its parts, and what a GPU reserves."""
