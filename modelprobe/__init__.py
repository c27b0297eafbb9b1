"""modelprobe: what a PyTorch model costs and what a weight file holds."""

__version__ = "0.1.0"
