"""Forward hooks on layers that are named, and those that copy what the layers return, while a `with` lasts."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.tracing.module_tree import class_name, walk
from modelprobe.tracing.tensors import leaves, with_leaves

WILD = "*?["


class Captured(Mapping[str, Tensor]):
    """The tensors that layers put out, by name, in the order in which they came.

    A layer that puts out one tensor is `layer1`; every tensor of a nested output has the name that reaches it
    (`encoder[1]`, `head.logits`); from a module's second call on the call's number follows (`block#2`).
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}
        """How often each asked-for layer has run."""
        self.origins: dict[str, tuple[str, int, int]] = {}
        """Name -> the layer's path, the number of its call (from 1), and of the tensor within its output (from 0)."""

    def __getitem__(self, name: str) -> Tensor:
        if name in self._tensors:
            return self._tensors[name]
        raise KeyError(f"{name!r}: captured are {', '.join(self._tensors) or 'none'}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {tuple(tensor.shape)}" for name, tensor in self._tensors.items())
        return f"Captured({shown})"

    def keep(self, path: str, output: Any, copied: Callable[[str, Tensor], Tensor]) -> int:
        """Take every tensor of one call's output, `copied` under its name; the number of the call."""
        number = self.calls[path] = self.calls.get(path, 0) + 1
        call = path if number == 1 else f"{path}#{number}"
        for index, (name, tensor) in enumerate(leaves(output)):
            reach = f".{name}" if name and not name.startswith("[") else name
            self._tensors[call + reach] = copied(call + reach, tensor)
            self.origins[call + reach] = (path, number, index)
        return number


class Enough(BaseException):
    """Ends a forward pass after the last tensor that was wanted. No `except Exception` of a model's stops it."""


@contextmanager
def capture(model: nn.Module, layers: str | Sequence[str], *, detach: bool = True) -> Iterator[Captured]:
    """Within, everything that `layers` put out is kept: `with capture(model, ["layer1"]) as features: model(x)`.

    `layers` are names or wildcards, as lists or separated by commas. Each tensor is a copy of what a forward hook sees,
    so that in-place operators after it change nothing. With `detach=False` it stays in the graph, and the model goes on
    from it: gradients with respect to it can be asked for. The hooks are gone afterwards, also when the body raised.
    Raises BadInput for a name that no module has, and, after the body, for a layer given by its name that never ran or
    put out no tensor.
    """
    paths, exact = chosen_layers(model, layers)
    with hooked(model, paths, detach=detach) as found:
        yield found
    check_captured(model, found, exact)


@contextmanager
def hooked(
    model: nn.Module,
    paths: Sequence[str],
    *,
    detach: bool = True,
    until: tuple[str, int] | None = None,
    memory: dict[str, Tensor] | None = None,
) -> Iterator[Captured]:
    """Keep what the modules at `paths` put out. After call number n of a module, `until=(path, n)` raises Enough.

    `memory` holds the copies of the pass before by name: where sizes agree they are written over, which spares the
    system's pages for new ones, a tenth of a forward pass.
    """
    found = Captured()

    def copied(name: str, tensor: Tensor) -> Tensor:
        if not detach or memory is None:
            return tensor.detach().clone() if detach else tensor
        known = memory.get(name)
        if known is not None and _alike(known, tensor):
            return known.copy_(tensor)
        memory[name] = tensor.detach().clone()
        return memory[name]

    def keep(path: str, _call: int, output: Any) -> Any:
        kept = output if detach else with_leaves(output, torch.clone)
        if found.keep(path, kept, copied) == (until[1] if until and until[0] == path else 0):
            raise Enough
        # In the graph a copy of what was captured goes on: what comes after depends on it, and cannot write to it.
        return None if detach else with_leaves(kept, torch.clone)

    with forward_hooks(model, keep, paths=paths):
        yield found


def _alike(known: Tensor, tensor: Tensor) -> bool:
    """Whether one tensor can hold the other without a change of shape, type or order in memory."""
    plain = torch.strided
    return (
        known.shape == tensor.shape
        and known.dtype == tensor.dtype
        and known.device == tensor.device
        and known.layout is tensor.layout is plain
        and not (tensor.is_quantized or tensor.is_nested)
        and known.stride() == tensor.stride()
    )


def captured_until(
    model: nn.Module,
    args: Sequence[Any],
    paths: Sequence[str],
    until: tuple[str, int] | None = None,
    memory: dict[str, Tensor] | None = None,
) -> Captured:
    """One forward pass of `model(*args)` without gradients, ended after `until`; what `paths` put out in it.

    With `memory` the tensors are written over by the next pass that is given the same.
    """
    with torch.no_grad(), hooked(model, paths, until=until, memory=memory) as found:
        try:
            model(*args)
        except Enough:
            return found
    return found


def chosen_layers(model: nn.Module, layers: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """The paths that `layers` name, in the model's order, and those of them that were given by name.

    A wildcard (`*`, `?`, `[..]`) also crosses dots, and names a shared module once. Raises BadInput for what matches
    nothing, with the nearest names.
    """
    known = [path for path, _ in walk(model) if path]
    first = first_names(model)
    texts = [layers] if isinstance(layers, str) else layers
    patterns = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if not patterns:
        raise BadInput("no layer was named", "for example layer1,layer4 or 'blocks.*.attn'; --list shows them")
    found: set[str] = set()
    exact: list[str] = []
    for pattern in patterns:
        if pattern in known:
            found.add(pattern)
            exact.append(pattern)
            continue
        hits = [path for path in known if fnmatchcase(path, pattern)] if set(WILD) & set(pattern) else []
        if not hits:
            raise _unknown(model, pattern, known)
        found.update(path for path in hits if first[path] == path or first[path] not in hits)
    return [path for path in dict.fromkeys(known) if path in found], exact


def first_names(model: nn.Module) -> dict[str, str]:
    """Every path -> the first name of the module that stands there: another one, where it has several."""
    names: dict[int, str] = {}
    return {path: names.setdefault(id(module), path) for path, module in walk(model)}


def _unknown(model: nn.Module, pattern: str, known: Sequence[str]) -> BadInput:
    if not known:
        return BadInput(f"{class_name(model)} has no layers inside", "it is one module; `modelprobe summary` shows it")
    wanted = pattern.strip("*. ")
    last = wanted.rpartition(".")[2]
    close = difflib.get_close_matches(wanted, known, n=4, cutoff=0.6)
    close += [path for path in known if last and path.rpartition(".")[2] == last][:3]
    close = list(dict.fromkeys(close))[:4] or list(known[:4])
    return BadInput(f"{class_name(model)} has no layer {pattern!r}", f"nearest: {', '.join(close)}; --list shows all")


def check_captured(model: nn.Module, found: Captured, exact: Sequence[str]) -> None:
    """Raises BadInput for a layer, asked for by its name, of which there is nothing to show."""
    filled = {path for path, _, _ in found.origins.values()}
    for path in exact:
        if path in filled:
            continue
        module = dict(walk(model))[path]
        kind = class_name(module)
        if path in found.calls:
            raise BadInput(f"the layer {path} ({kind}) put out no tensor", "name a layer around it or inside it")
        inside = [name for name in found.calls if name.startswith(f"{path}.")]
        if isinstance(module, torch.jit.ScriptModule):
            hint = "it is TorchScript, which runs past hooks: name the model that it was made from"
        elif type(module).forward is nn.Module.forward or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            hint = f"it is a list that is never called itself: '{path}.*' names what is in it"
        else:
            hint = (
                f"'{path}.*' did" if inside else "it is not used in this forward pass; --list shows the layers that run"
            )
        raise BadInput(f"the layer {path} ({kind}) never ran", hint)


@contextmanager
def forward_hooks(
    model: nn.Module,
    after: Callable[[str, int, Any], Any],
    before: Callable[[str], None] | None = None,
    paths: Sequence[str] | None = None,
) -> Iterator[None]:
    """Within, `after(path, call, output)` follows every call of the modules at `paths` (of all when None).

    `call` counts the calls of that module in this forward pass of `model`, from 0. What `after` returns takes the
    output's place, unless it is None. `before(path)` comes ahead of each call. TorchScript takes no hook.
    """
    calls: Counter[str] = Counter()

    def hook_of(path: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            calls[path] += 1
            return after(path, calls[path] - 1, output)

        return hook

    if paths is None:
        modules = dict(model.named_modules())
    else:
        modules = {path: reduce(getattr, path.split(".") if path else (), model) for path in paths}
    with ExitStack() as stack:
        if not isinstance(model, torch.jit.ScriptModule):
            stack.callback(model.register_forward_pre_hook(lambda *_: calls.clear()).remove)
        for path, module in modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            if before is not None:
                stack.callback(module.register_forward_pre_hook(lambda *_, path=path: before(path)).remove)
            stack.callback(module.register_forward_hook(hook_of(path)).remove)
        yield
