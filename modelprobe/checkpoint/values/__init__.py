"""Reading tensors out of weight files, a piece at a time."""
