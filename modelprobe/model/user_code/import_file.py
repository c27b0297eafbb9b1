"""Load a user's own Python, from a file or a module name, and leave the interpreter as it was found."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.model.user_code.failure import is_installed, told

PRIVATE = "_modelprobe_"
"""What the names begin with under which files are imported."""


@dataclass(frozen=True)
class Surroundings:
    """What the user's code expects around it while it is imported, and again while it builds a model."""

    directory: Path
    program: str
    # What the code itself left behind, put back when it is entered again: two files with a neighbour `layers.py` each,
    # in two folders, keep their own.
    neighbours: dict[str, ModuleType] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The directory can be imported from, `sys.argv` is the program's alone, `print` goes to stderr.

        No `.pyc` is written. `sys.path`, `sys.argv` and the rest are as before afterwards.
        """
        path, argv, bytecode = list(sys.path), sys.argv, sys.dont_write_bytecode
        self._evict_strangers()
        sys.modules.update(self.neighbours)
        sys.path[:0] = [str(self.directory), *self.paths]
        sys.argv, sys.dont_write_bytecode = [self.program], True
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            self.paths[:] = [entry for entry in sys.path if entry not in path and entry != str(self.directory)]
            self.neighbours.update(self._found_neighbours())
            sys.path[:] = path
            sys.argv, sys.dont_write_bytecode = argv, bytecode

    def _evict_strangers(self) -> None:
        """Forget modules of another user's folder that go by the name of a neighbour here."""
        here = {path.stem for path in self.directory.glob("*.py")}
        here |= {path.parent.name for path in self.directory.glob("*/__init__.py")}
        for name, module in list(sys.modules.items()):
            top = name.partition(".")[0]
            if top in here and top != "modelprobe" and _is_users(module) and not self._is_neighbour(module):
                del sys.modules[name]

    def _found_neighbours(self) -> dict[str, ModuleType]:
        modules = list(sys.modules.items())
        return {name: module for name, module in modules if self._is_neighbour(module) and _is_users(module)}

    def _is_neighbour(self, module: ModuleType) -> bool:
        # Text, not paths: it is asked of every module there is.
        return str(_file_of(module)).startswith(f"{self.directory}{os.sep}")


@dataclass(frozen=True)
class Loaded:
    """A module of the user's, and what must be around it when its code runs."""

    module: ModuleType
    surroundings: Surroundings
    label: str
    """How the user named it: `net.py`, `package.module`."""


def load_file(text: str) -> Loaded:
    """Run a `.py` file under a private name. Raises BadInput for the file, ModelRaised for what its code raised."""
    path = _readable(text)
    surroundings = Surroundings(path.parent, str(path))
    name = _private_name(path)
    from modelprobe.model.construct import seeded

    with surroundings.entered(), seeded(0):  # what the file makes when it is imported is the same each time
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise BadInput(f"{text} cannot be loaded as Python")
        module = importlib.util.module_from_spec(spec)
        # It stays in `sys.modules`: pickling and deep copies of its classes look it up there.
        sys.modules[name] = module
        try:
            _make_parent(name, path.parent)
            spec.loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(name, None)
            if name.startswith(PRIVATE):
                sys.modules.pop(name.rpartition(".")[0], None)
            if isinstance(error, KeyboardInterrupt):
                raise
            raise _import_failed(error, text, path.parent) from error
    return Loaded(module, surroundings, path.name)


def load_module(name: str) -> Loaded:
    """Import `package.module`, also from the current directory. Raises BadInput when there is none."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise BadInput(f"{name!r} is neither a file nor the name of a module", _GRAMMAR)
    surroundings = Surroundings(Path.cwd(), name)
    with surroundings.entered():
        importlib.invalidate_caches()
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                hint = f"it was looked for among the installed packages and in {Path.cwd()}"
                raise BadInput(f"there is no module {error.name!r}", hint) from error
            raise _import_failed(error, name, Path.cwd()) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise _import_failed(error, name, Path.cwd()) from error
    return Loaded(module, surroundings, name)


_GRAMMAR = "a target is a zoo name, torchvision:NAME, timm:NAME, net.py:Net or package.module:factory"


def expanded(text: str) -> Path:
    """The path that `text` names, `~` resolved where that is somebody's home. Raises BadInput for no path at all."""
    path = Path(text)
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # longer than any name, a file taken for a directory, a NUL
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{text} cannot be looked up: {reason}", "check the path") from error
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _readable(text: str) -> Path:
    path = expanded(text)
    if path.is_dir():
        raise BadInput(f"{text} is a directory, not a Python file", _python_files(path) or "name a file in it")
    if not path.exists():
        raise BadInput(f"there is no file {text}", _python_files(path.parent) or "check the path")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise BadInput(f"{text} cannot be read: {error.strerror or error}", "check its permissions") from error
    return path.resolve()


def _python_files(directory: Path) -> str:
    names = sorted(entry.name for entry in directory.glob("*.py")) if directory.is_dir() else []
    more = f", … ({len(names)} in all)" if len(names) > 8 else ""
    return f"Python files there: {', '.join(names[:8])}{more}" if names else ""


def _import_failed(error: BaseException, label: str, directory: Path) -> ModelRaised:
    hint = "--debug shows the traceback"
    if isinstance(error, ModuleNotFoundError):
        hint = f"install {error.name}, or run where it can be imported"
    return ModelRaised(f"importing {label} failed: {told(error, directory)}", hint)


def _private_name(path: Path) -> str:
    """A name that is no other module's, below the file's own package so that `from .layers import Block` works."""
    digest = zlib.crc32(str(path).encode("utf-8", "surrogatepass"))
    stem = re.sub(r"\W", "_", path.stem)
    package = path.parent.name if (path.parent / "__init__.py").exists() and path.parent.name.isidentifier() else ""
    if package and path.stem != "__init__":
        return f"{_package_of(path.parent)}.{PRIVATE}{stem}_{digest:08x}"
    return f"{PRIVATE}{digest:08x}.{stem}"


def _package_of(directory: Path) -> str:
    parts = [directory.name]
    while (directory.parent / "__init__.py").exists() and directory.parent.name.isidentifier():
        directory = directory.parent
        parts.insert(0, directory.name)
    return ".".join(parts)


def _make_parent(name: str, directory: Path) -> None:
    """The package that `name` stands in: the file's real one, or an empty one whose folder is the file's."""
    parent = name.rpartition(".")[0]
    if parent.startswith(PRIVATE):
        package = ModuleType(parent)
        package.__path__ = [str(directory)]
        sys.modules[parent] = package
        return
    root = directory.parents[parent.count(".")]
    sys.path.insert(0, str(root))
    importlib.import_module(parent)


def _file_of(module: ModuleType) -> object:
    # Not `getattr`: a module that is loaded on first use would be loaded by it.
    try:
        return vars(module).get("__file__")
    except TypeError:  # not everything in `sys.modules` is a module
        return None


def _is_users(module: ModuleType) -> bool:
    file = _file_of(module)
    return isinstance(file, str) and not module.__name__.startswith(PRIVATE) and not is_installed(file)
