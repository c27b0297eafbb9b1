"""Whether a run or a weight file is well: gradients, activations, layers that were never trained."""
