"""Keeps the compiler out of a process that compiles nothing: importing it takes longer than most questions here.

On eager paths torch, torchvision and timm import three modules for a few small things. `torch._dynamo` is asked for
`disable`, which marks a function that is not to be compiled, for `graph_break`, which an optimizer's step calls and
which is for the compiler alone, and for `utils.is_compile_supported`;
`torch.fx.experimental.symbolic_shapes` for comparisons that are trivial when sizes are numbers; `sympy` for the class
`Basic`, which no number is. Within `compiler_stand_in()` modules of these names answer just that. They step aside for
the real ones as soon as anybody asks for anything else. Afterwards they are gone; whoever still holds one of them, or
what it gave, is passed on to the real ones.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, FunctionType, ModuleType
from typing import Any

DYNAMO, DYNAMO_UTILS = "torch._dynamo", "torch._dynamo.utils"
EXPERIMENTAL, SYMBOLIC, SYMPY = "torch.fx.experimental", "torch.fx.experimental.symbolic_shapes", "sympy"
_IMPORT_ORDER = (("torch._dynamo", "torch._dynamo.utils"), ("torch.fx.experimental.symbolic_shapes",), ("sympy",))
"""The real modules of a group import those of the groups after it: they step aside together."""
OLDEST_TORCH, NEWEST_TORCH = (2, 6), (2, 15)
"""The releases whose use of these modules is known; any other torch imports what it likes."""


def compiler_loaded() -> bool:
    """Whether the real `torch._dynamo` has been imported."""
    return DYNAMO in sys.modules and not isinstance(sys.modules[DYNAMO], _StandIn)


@contextmanager
def compiler_stand_in() -> Iterator[None]:
    """Within, whoever imports the compiler gets the stand-ins, unless it is there already or torch is not known."""
    if DYNAMO in sys.modules or not _known_torch():
        yield
        return
    stand_ins = _StandIns()
    try:
        yield
    finally:
        stand_ins.remove()


def _known_torch() -> bool:
    try:
        version = str(importlib.import_module("torch").__version__)
        major, minor = version.split(".")[:2]
        return OLDEST_TORCH <= (int(major), int(minor)) <= NEWEST_TORCH
    except (ImportError, OSError, ValueError):  # whoever needs torch will say what is wrong with it
        return False


def graph_break(msg: str = "") -> None:
    """`torch._dynamo.graph_break`: nothing, where nothing is compiled."""


def is_compile_supported(device_type: Any) -> bool:
    """`torch._dynamo.utils.is_compile_supported`, which torchvision keeps: asks the real one when it is called."""
    return bool(importlib.import_module(DYNAMO_UTILS).is_compile_supported(device_type))


class _StandIns(MetaPathFinder, Loader):
    """The modules in `sys.modules`, and what has to be taken back afterwards.

    As a finder it sees the import of any other submodule of the packages, for which the real package comes first.
    """

    def __init__(self) -> None:
        self._marked: list[FunctionType] = []
        answers: dict[str, dict[str, Any]] = {
            DYNAMO: {"disable": self._disable, "graph_break": graph_break},
            DYNAMO_UTILS: {"is_compile_supported": is_compile_supported},
            SYMBOLIC: _ABOUT_NUMBERS,
            SYMPY: {"Basic": _Symbol},
        }
        self._modules = {
            name: _StandIn(name, given, self.real) for name, given in answers.items() if name not in sys.modules
        }
        for name in {DYNAMO, SYMPY} & set(self._modules):
            self._modules[name].__path__ = []
        if SYMBOLIC in self._modules:
            vars(importlib.import_module(EXPERIMENTAL))["symbolic_shapes"] = self._modules[SYMBOLIC]
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)

    def remove(self, groups: Sequence[Sequence[str]] = _IMPORT_ORDER) -> None:
        """Take these modules away, and what torch has kept of `disable`, so that it asks the real one."""
        for name in (name for group in groups for name in group):
            module = self._modules.pop(name, None)
            if module is not None and sys.modules.get(name) is module:
                del sys.modules[name]
            if module is not None and vars(sys.modules[EXPERIMENTAL]).get("symbolic_shapes") is module:
                del vars(sys.modules[EXPERIMENTAL])["symbolic_shapes"]
        if not self._modules and self in sys.meta_path:
            sys.meta_path.remove(self)
        if DYNAMO not in self._modules:
            for function in self._marked:
                vars(function).pop("__dynamo_disable", None)
            self._marked.clear()

    def real(self, name: str) -> ModuleType:
        """Step aside: the real module of that name."""
        first = next(i for i, group in enumerate(_IMPORT_ORDER) if name.startswith(group[0]))
        self.remove(_IMPORT_ORDER[first:])
        return importlib.import_module(name)

    def _disable(self, fn: Any = None, recursive: bool = True, **options: Any) -> Any:
        """`torch._dynamo.disable` for a function, while there is nothing that could compile it."""
        if DYNAMO not in self._modules or type(fn) is not FunctionType:
            return self.real(DYNAMO).disable(fn, recursive, **options)
        torch_compile = importlib.import_module("torch._compile")
        if sys._getframe(1).f_globals is vars(torch_compile):
            # A wrapper of torch's, which calls what it is given and keeps it with the function.
            self._marked.append(fn)
            return fn
        # That very wrapper asks the real package if it is called when we are gone.
        disabled = torch_compile._disable_dynamo(fn, recursive)
        disabled._torchdynamo_disable = True
        disabled._torchdynamo_orig_callable = fn
        return disabled

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Import the real submodule, and hand it out as the one that was found."""
        package = DYNAMO if name.startswith(DYNAMO + ".") else name.partition(".")[0]
        if package not in (DYNAMO, SYMPY) or package not in self._modules:
            return None
        module = self.real(name)
        spec = ModuleSpec(name, self, loader_state=module.__spec__)
        module.__spec__ = None  # with one the import system takes that, and runs the module a second time
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The real module, imported a moment ago."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to run: the module gets back its own spec."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


class _StandIn(ModuleType):
    """A module that gives a few answers, and passes everything else on to the real one."""

    def __init__(self, name: str, answers: dict[str, Any], real: Callable[[str], ModuleType]) -> None:
        super().__init__(name)
        vars(self).update(_answers=answers, _import=real, _replaced=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # let the import system's own lookups fail
            raise AttributeError(name)
        active = sys.modules.get(self.__name__) is self
        if active and name in self._answers and _may_have(self.__name__, sys._getframe(1)):
            return self._answers[name]
        return getattr(self._real(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            super().__setattr__(name, value)
        else:
            setattr(self._real(), name, value)

    def _real(self) -> ModuleType:
        """The real module, which takes this one's place wherever a module has imported it."""
        real: ModuleType = self._import(self.__name__)
        if not self._replaced:
            vars(self)["_replaced"] = True
            for module in [module for module in sys.modules.values() if isinstance(module, ModuleType)]:
                for name in [name for name, value in list(vars(module).items()) if value is self]:
                    vars(module)[name] = real
        return real


def _may_have(module: str, asking: FrameType) -> bool:
    """Whether our answer is the right one for whoever asks.

    The compiler has to know the functions of `symbolic_shapes` that a module keeps; `Basic` is torch's question alone.
    """
    if module == SYMPY:
        return asking.f_globals.get("__name__") == "torch._prims_common"
    return module != SYMBOLIC or asking.f_code.co_name != "<module>"


class _Symbol:
    """Stands for `sympy.Basic` where torch asks whether a number is one."""


def _about_numbers(name: str, answer: Callable[..., Any], kind: type) -> Callable[..., Any]:
    """The function of `symbolic_shapes` called `name`: `answer` for values of that kind, the real one for others.

    A size that the compiler does not know yet is an object of its own, and so is a comparison with it.
    """

    def plain(value: Any) -> bool:
        return type(value) is kind or (isinstance(value, (tuple, list)) and all(map(plain, value)))

    def function(*args: Any, **kwargs: Any) -> Any:
        if all(map(plain, args)) and not kwargs:
            return answer(*args)
        return getattr(importlib.import_module(SYMBOLIC), name)(*args, **kwargs)

    return function


def _equal_sizes(x: Any, y: Any) -> bool:
    if isinstance(x, (tuple, list)) and isinstance(y, (tuple, list)):
        return len(x) == len(y) and all(map(_equal_sizes, x, y))
    return bool(x == y)


_CONDITIONS = "expect_true guard_bool guard_or_false guard_or_true guard_size_oblivious statically_known_true".split()
_SIZE_HINTS = "guard_int guarding_hint_or_throw hint_int".split()
_ADVICE = "_advise_is_size _advise_is_bounded".split()
_ABOUT_NUMBERS: dict[str, Any] = {
    name: _about_numbers(name, answer, kind)
    for names, kind, answer in (
        (_CONDITIONS, bool, lambda condition: condition),
        (["sym_and"], bool, lambda *conditions: all(conditions)),
        (["sym_or"], bool, lambda *conditions: any(conditions)),
        (["sym_eq"], int, _equal_sizes),
        (_SIZE_HINTS, int, lambda size: size),
        (["is_nested_int"], int, lambda _: False),
        (["has_guarding_hint"], int, lambda _: True),
        (_ADVICE, int, lambda *_: None),
    )
    for name in names
}
"""Function of `symbolic_shapes` -> the same, which answers for numbers without it."""
