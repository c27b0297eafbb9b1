"""Kernels for `meta` tensors that spare an import of `torch._dynamo`."""
