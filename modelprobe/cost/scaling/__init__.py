"""Costs against input size and batch."""
