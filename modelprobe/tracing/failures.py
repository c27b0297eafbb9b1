"""What went wrong while a model ran: it asks `meta` tensors for values, or it raised, and where."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from modelprobe.errors import BadInput, ModelRaised, ProbeError, one_line
from modelprobe.report.blocks import Level, Note
from modelprobe.report.units import shape as shape_text
from modelprobe.tracing.completeness import ASKING, SIZED_BY_VALUES
from modelprobe.tracing.module_calls import Running
from modelprobe.tracing.module_tree import class_name, read_tree
from modelprobe.tracing.records import Trace, coverage_gap
from modelprobe.tracing.tensors import given_leaves, shapes


class NeedsValuesError(BadInput):
    """The model asked a `meta` tensor for its values; it has to run for real. `where` is the module that asked."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.reason = meta_reason(error)
        self.unsupported = _lacks_kernel(error)
        place = f" in {where}" if where else ""
        wanting = (
            f"meta tensors do not do all that the model does{place}"
            if self.unsupported
            else f"the model asks for values{place}, which meta tensors do not have"
        )
        hint = "it has to run for real: --device cpu, or a model and inputs on a real device"
        super().__init__(f"{wanting}: {self.reason}", hint)
        self.where = where


_OPERATOR = re.compile(r"(?:The register_meta function for torch\.|aten::)(?P<name>\w+)")
"""How torch names the operator that `meta` refused, newer releases and those before 2.13."""


def meta_reason(error: BaseException) -> str:
    """What torch says of it, in a sentence: what follows is advice to people who write operators."""
    text = one_line(error)
    found = _OPERATOR.search(text)
    if found and f"aten.{found['name']}" in SIZED_BY_VALUES:
        return f"torch.{found['name']} has as many results as its values say"
    if found and f"aten.{found['name']}" in ASKING:
        return f"torch.{found['name']} returns what the values are"
    if found and "attempted to run" in text:
        return f"torch.{found['name']} has no kernel for meta tensors"
    return text.split(". ")[0].rstrip(".")


def real_run_note(raised: ProbeError, how: str) -> Note:
    """Why a model was run for real after all. Where its control flow may depend on values, its cost may as well."""
    if not isinstance(raised, NeedsValuesError):
        cause = raised.__cause__
        reason = f"{type(cause).__name__}: {meta_reason(cause)}" if cause is not None else raised.message
        return Note(f"Run for real {how}, not on meta, where it raised {reason}.", Level.INFO)
    where = f" in {raised.where}" if raised.where else ""
    if raised.unsupported:
        return Note(f"Run for real {how}, not on meta, which cannot run it{where} ({raised.reason}).", Level.INFO)
    text = f"Run for real {how}, not on meta: the model asks for values{where} ({raised.reason})."
    return coverage_gap("data-dependent", f"{text} What it costs may depend on the data.")


def lacks_values(model: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether the model or its inputs stand on `meta`, so that it cannot be run for real."""
    everything = (*model.parameters(), *model.buffers(), *(t for _, t in given_leaves((args, kwargs))))
    return any(tensor.is_meta for tensor in everything)


def _lacks_kernel(error: BaseException) -> bool:
    """Whether something else than values was missing on `meta`: a kernel, autocast, an address, or a device."""
    text = one_line(error, 10_000)
    found = _OPERATOR.search(text)
    if found and f"aten.{found['name']}" in ASKING | SIZED_BY_VALUES:
        return False
    return "Could not run" in text or any(
        word in text for word in ("autocast", "data pointer", "data_ptr", "fake impl", "INTERNAL ASSERT")
    )


_CARRIED_RUN = "_modelprobe_run"


def keep_run(error: BaseException | None, run: Trace) -> None:
    """Let what a model raised carry what ran until then; its last operator may have the status `failed`."""
    if error is not None:
        setattr(error, _CARRIED_RUN, run)


def run_until(raised: ProbeError) -> Trace | None:
    """What ran until the model raised; None where nothing did, or it was not recorded."""
    run: Trace | None = getattr(raised.__cause__, _CARRIED_RUN, None)
    return run


def by_compiler(error: BaseException | None) -> bool:
    """Whether the exception is the compiler's."""
    return type(error).__module__.startswith("torch._dynamo")


def wants_gradients(raised: ProbeError) -> bool:
    """Whether the model differentiated and nothing had a gradient, as gradients are off."""
    return raised.__cause__ is not None and "does not require grad" in one_line(raised.__cause__)


def fails_anywhere(raised: ProbeError) -> bool:
    """Whether it is certain that a real device would refuse it too."""
    return type(raised.__cause__).__name__ == "MixedDtypesError"


def asks_for_values(error: BaseException) -> bool:
    """Whether an exception on meta says that values, not shapes, were missing; else it would happen for real too."""
    if isinstance(error, AssertionError):
        return False
    if isinstance(error, NotImplementedError) or by_compiler(error):
        return not by_compiler(error)
    text = one_line(error, 10_000).lower()
    return any(word in text for word in ("meta", "data-dependent", "data dependent", "unbacked"))


def raised_by_model(error: BaseException) -> ProbeError:
    """What the model said, where nothing more is known."""
    return ModelRaised(
        f"the model raised {type(error).__name__}: {one_line(error)}", "--debug shows where; is the size right?"
    )


@contextmanager
def model_errors(explain: Callable[[BaseException], ProbeError] = raised_by_model) -> Iterator[None]:
    """What a model raises in the body, as the error that `explain` makes of it, also `sys.exit`: it is not success.

    Interruptions and errors that are explained already pass.
    """
    try:
        yield
    except (KeyboardInterrupt, ProbeError):
        raise
    except BaseException as error:
        raise explain(error) from error


def explained(
    model: nn.Module, args: Any, kwargs: Any, device: str, running: Running, error: BaseException
) -> ProbeError:
    """What to raise for an exception that came out of a forward: values are needed, or the model is at fault."""
    if device == "meta" and asks_for_values(error):
        return NeedsValuesError(running.failed[0] if running.failed else "", error)
    return model_raised(model, args, kwargs, running, error)


def mode_raised(model: nn.Module, error: BaseException) -> ProbeError:
    """What to raise for an exception out of the model's own `train()` or `eval()`."""
    return ModelRaised(
        f"train() or eval() of {class_name(model)} raised {type(error).__name__}: {one_line(error)}",
        "--debug shows the traceback",
    )


def model_raised(model: nn.Module, args: Any, kwargs: Any, running: Running, error: BaseException) -> ProbeError:
    """The module that raised, what it was given, and what it said."""
    given = ", ".join(shape_text(shape) for shape in shapes((args, kwargs))) or "no tensors"
    if isinstance(error, TypeError) and not running.calls[1:] and "forward()" in one_line(error):
        return BadInput(
            f"{class_name(model)} was given {given}: {one_line(error)}",
            "give one --input per argument of forward, by name if need be: --input ids=1x128:int64",
        )
    path, inputs = running.failed or ("", ())
    remedy = _remedy(error)
    where = f"{class_name(model)}.{path}" if path else class_name(model)
    flight = ", ".join(shape_text(shape) for shape in inputs) or given
    node = next((node for node in read_tree(model).modules if node.path == path), None)
    layer = f"{path} is {node.cls}({node.extra}); " if path and node and node.extra else ""
    kind, said = type(error).__name__, one_line(error)
    text = f"{where} raised {kind} on {flight}" + (f": {said}" if said != kind else "")
    if "more than 1 value per channel" in said:
        return LoneValueError(text, remedy)
    return ModelRaised(text, f"{layer}the model was given {given}: {remedy}; --debug shows the traceback")


class LoneValueError(ModelRaised):
    """Batch norm in training mode met a channel of one value, whose variance would be nothing."""


def asks_for_cuda(error: BaseException) -> bool:
    """Whether code names a CUDA device where there is none."""
    said = one_line(error, 10_000)
    return any(text in said for text in ("not compiled with CUDA", "No CUDA GPUs", "no NVIDIA driver"))


def _remedy(error: BaseException) -> str:
    """What to do about an exception of the model's."""
    said = one_line(error, 10_000)
    if "more than 1 value per channel" in said:
        return "batch norm in training mode needs a batch of two or more: --batch 2"
    if asks_for_cuda(error):
        return "it asks for CUDA, which is not here: --redirect-device keeps it on the device that it is on"
    if 'missing the required "forward" function' in said or "_forward_unimplemented" in said:
        return "it defines no forward: name the method that it is called by with --call METHOD"
    if isinstance(error, AssertionError):
        return "an assert of its own does not hold"
    return "choose another --input"
