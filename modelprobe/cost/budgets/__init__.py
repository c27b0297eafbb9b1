"""Budgets: whether a model's deterministic figures stay within limits, and within those of an earlier version."""
