"""Every operator that torch tests itself, by torch's own samples (`OpInfo`): those, a training step, what it refuses.

The whole is slow; a part of it, drawn with a seed, is in every zoo run.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from modelprobe.errors import ProbeError
from modelprobe.tracing.dispatch import upper_bound
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.records import Trace
from modelprobe.tracing.training import record_training
from tests.tracing.by_hand import Expression, costs

pytestmark = pytest.mark.filterwarnings("ignore")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per entry. torch's table takes seconds to import, so the everyday suite does without."""
    if metafunc.config.option.markexpr == "not zoo and not slow":
        metafunc.parametrize("op", [])
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db

    sampled = random.Random(7).sample(range(len(op_db)), len(op_db) // 8)
    wanted = getattr(metafunc.function, "wanted", lambda op: True)
    entries = [
        pytest.param(op, id=op.formatted_name, marks=pytest.mark.zoo if number in sampled else pytest.mark.slow)
        for number, op in enumerate(op_db)
        if wanted(op)
    ]
    metafunc.parametrize("op", entries)


def for_entries(wanted: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """Decorates a test of those entries alone."""

    def mark(test: Any) -> Any:
        test.wanted = wanted
        return test

    return mark


SPECIAL = (
    "special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 "
    "special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_chebyshev_polynomial_v "
    "special_chebyshev_polynomial_w special_hermite_polynomial_h special_hermite_polynomial_he "
    "special_laguerre_polynomial_l special_legendre_polynomial_p special_log_ndtr special_modified_bessel_i0 "
    "special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 "
    "special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 special_shifted_chebyshev_polynomial_t "
    "special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v "
    "special_shifted_chebyshev_polynomial_w special_spherical_bessel_j0"
).split()
"""Special functions without a formula: named when they run."""

OTHERS = ["_sparse_mm_reduce_impl_backward"]
"""What else has none."""


def dtype_of(op: Any) -> torch.dtype:
    known = op.dtypes
    return next((d for d in (torch.float32, torch.complex64, torch.int64, torch.bool) if d in known), next(iter(known)))


def first_sample(op: Any, grad: bool = False) -> tuple[Callable[..., Any], list[Tensor]]:
    """A function of the sample's tensors, and those."""
    torch.manual_seed(0)
    sample = next(iter(op.sample_inputs("cpu", dtype_of(op), requires_grad=grad)))
    return _function_of(op, sample)


def _function_of(op: Any, sample: Any) -> tuple[Callable[..., Any], list[Tensor]]:
    given = (sample.input, *sample.args)
    tensors = [value for value in given if isinstance(value, Tensor)]

    def function(*values: Tensor) -> Any:
        rest = iter(values)
        args = [next(rest) if isinstance(value, Tensor) else value for value in given]
        return op(*args, **sample.kwargs)

    return function, tensors


def runs(function: Callable[..., Any], tensors: list[Tensor]) -> bool:
    try:
        with torch.no_grad():
            function(*(tensor.detach().clone() for tensor in tensors))
    except Exception:  # noqa: BLE001 - torch's own build may lack a part
        return False
    return True


def test_the_first_sample(op: Any, record_property: Any) -> None:
    try:
        function, tensors = first_sample(op)
    except StopIteration:
        pytest.skip("it has no sample")
    if not runs(function, tensors):
        pytest.skip("it does not run here")
    uncounted, by_torch = agrees(function, tensors)
    record_property("figure operators", {"entries": 1, "uncounted": uncounted, "as torch counts": by_torch})


MAX_FURTHER = 12
"""How many further samples of an entry are tried."""


def test_further_samples(op: Any, record_property: Any) -> None:
    torch.manual_seed(0)
    tried = by_torch = 0
    for sample in islice(op.sample_inputs("cpu", dtype_of(op)), 1, 1 + MAX_FURTHER):
        function, tensors = _function_of(op, sample)
        if runs(function, tensors):
            tried += 1
            by_torch += agrees(function, tensors)[1]
    if not tried:
        pytest.skip("it has no other sample that runs here")
    record_property("figure further samples", {"entries": 1, "samples": tried, "as torch counts": by_torch})


def agrees(function: Callable[..., Any], tensors: list[Tensor]) -> tuple[bool, bool]:
    """Checks one call on `meta` and for real; whether an operator of it is uncounted, and whether torch counts it."""
    real = trace(Expression(function), *tensors, device="real")
    meta = trace(Expression(function), *tensors)
    assert cheap(meta) == cheap(real)
    unknown = {item.name for item in real.uncounted}
    assert all(name.removeprefix("aten.") in (*SPECIAL, *OTHERS) for name in unknown), unknown
    for call in (*meta.ops, *real.ops):
        if call.status == "counted":
            assert upper_bound(call.inputs, call.outputs) >= call.macs, call.name
    theirs = counted_by_torch(function, tensors)
    assert theirs in (0, real.macs), (theirs, real.macs)
    return bool(unknown), theirs > 0


def cheap(found: Trace) -> Counter[tuple[str, int, int]]:
    """What costs something, how often; kernels of `meta` may spell a copy otherwise."""
    return Counter(costs(found))


def counted_by_torch(function: Callable[..., Any], tensors: list[Tensor]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*(tensor.detach().clone() for tensor in tensors))
    return int(counter.get_total_flops()) // 2


@for_entries(lambda op: op.supports_autograd)
def test_a_training_step(op: Any, record_property: Any) -> None:
    try:
        function, tensors = first_sample(op, grad=True)
    except (StopIteration, ValueError):
        pytest.skip("it has no sample of a type that has gradients")
    if not runs(function, tensors):
        pytest.skip("it does not run here")
    try:
        found = record_training(Expression(function), *tensors)
    except ProbeError:
        return  # nothing to differentiate, or refused by torch as well
    unknown = {item.name for item in found.uncounted}
    assert all(name.removeprefix("aten.") in (*SPECIAL, *OTHERS) for name in unknown), unknown
    record_property("figure training steps", {"entries": 1, "uncounted": bool(unknown)})


@for_entries(lambda op: op.error_inputs_func is not None)
def test_what_torch_refuses_is_refused(op: Any, record_property: Any) -> None:
    torch.manual_seed(0)
    refused = 0
    for case in list(op.error_inputs("cpu"))[:3]:
        function, tensors = _function_of(op, case.sample_input)
        # torch's own kernels for `meta` do not look at overlapping memory, and let a few types pass.
        on_meta = [tensor.to("meta") for tensor in tensors]
        if "out" in case.sample_input.kwargs or runs(function, tensors) or runs(function, on_meta):
            continue
        with pytest.raises(ProbeError):
            trace(Expression(function), *tensors)
        refused += 1
    record_property("figure refusals", {"entries": 1, "cases": refused})
