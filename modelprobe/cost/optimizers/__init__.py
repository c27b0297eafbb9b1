"""Optimizers: what an update costs and keeps, and parameter groups written as code."""
