"""A pytest plug-in: the fixture `assert_cost`, for budgets in a project's own tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(name="assert_cost")
def cost_assertion() -> Callable[..., None]:
    """`assert_cost(model, *inputs, max_macs=…)`: `modelprobe.assert_cost`, imported when a test asks for it."""
    from modelprobe.api import assert_cost as check

    return check
