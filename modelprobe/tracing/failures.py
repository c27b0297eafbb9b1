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
from modelprobe.tracing.module_calls import Running
from modelprobe.tracing.module_tree import class_name, read_tree
from modelprobe.tracing.tensors import leaves, shapes


class NeedsValuesError(BadInput):
    """The model asked a `meta` tensor for its values; it has to run for real. `where` is the module that asked."""

    def __init__(self, where: str, error: BaseException) -> None:
        reason = _reason(error)
        super().__init__(
            f"the model asks for values{f' in {where}' if where else ''}, which meta tensors do not have: {reason}",
            "it has to run for real: --device cpu, or a model and inputs on a real device",
        )
        self.where = where
        self.reason = reason


_BY_VALUES = re.compile(
    r"(?:The register_meta function for torch\.|aten::)(?P<name>\w+)(?:\(\) raises|: attempted to run)"
)
"""How torch says it, newer releases and those before 2.13."""


def _reason(error: BaseException) -> str:
    """What torch says of it, in a sentence: what follows is advice to people who write operators."""
    text = one_line(error)
    found = _BY_VALUES.match(text)
    return f"torch.{found['name']} has as many results as its values say" if found else text.split(". ")[0].rstrip(".")


def real_run_note(needs: NeedsValuesError, how: str) -> Note:
    """Why a model was run for real after all."""
    where = f" in {needs.where}" if needs.where else ""
    return Note(
        f"Run for real {how}, not on meta: the model asks for values{where} ({needs.reason}). "
        "What it costs may depend on the data.",
        Level.INFO,
    )


def refuse_meta(model: nn.Module, args: Any, kwargs: Any, needs: NeedsValuesError) -> None:
    """Raises `needs` when the model or its inputs have no values either."""
    everything = [*model.parameters(), *model.buffers(), *(t for _, t in leaves((args, kwargs)))]
    if any(tensor.is_meta for tensor in everything):
        raise needs


def by_compiler(error: BaseException | None) -> bool:
    """Whether the exception is the compiler's."""
    return type(error).__module__.startswith("torch._dynamo")


def asks_for_values(error: BaseException) -> bool:
    """Whether an exception on meta says that values, not shapes, were missing; else it would happen for real too."""
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


def model_raised(model: nn.Module, args: Any, kwargs: Any, running: Running, error: BaseException) -> ProbeError:
    """The module that raised, what it was given, and what it said."""
    given = ", ".join(shape_text(shape) for shape in shapes((args, kwargs))) or "no tensors"
    if isinstance(error, TypeError) and not running.calls[1:] and "forward()" in one_line(error):
        return BadInput(
            f"{class_name(model)} was given {given}: {one_line(error)}",
            "give one --input per argument of forward, by name if need be: --input ids=1x128:int64",
        )
    path, inputs = running.failed or ("", ())
    where = f"{class_name(model)}.{path}" if path else class_name(model)
    flight = ", ".join(shape_text(shape) for shape in inputs) or given
    node = next((node for node in read_tree(model).modules if node.path == path), None)
    layer = f"{path} is {node.cls}({node.extra}); " if path and node and node.extra else ""
    return ModelRaised(
        f"{where} raised {type(error).__name__} on {flight}: {one_line(error)}",
        f"{layer}the model was given {given}: choose another --input; --debug shows the traceback",
    )
