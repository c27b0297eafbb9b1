"""Formulas that other packages bring: the entry point group `modelprobe.formulas`.

To give an operator library its formulas:
1. write a module that registers them with `@modelprobe.formula`;
2. name it in the package's pyproject.toml:

       [project.entry-points."modelprobe.formulas"]
       mylib = "mylib.modelprobe_formulas"

3. nothing else: it is imported before the first recording. An entry point may also name a function without
   arguments, `"mylib.cost:register"`, which is then called.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from modelprobe.errors import one_line
from modelprobe.report.blocks import Level, Note

GROUP = "modelprobe.formulas"


@cache
def installed_formulas() -> tuple[Note, ...]:
    """Register the formulas of every installed package, once in a process. A note for each package that failed."""
    return load(entry_points(group=GROUP))


def load(points: Iterable[EntryPoint]) -> tuple[Note, ...]:
    """Load entry points in the order of their names. Whatever one of them raises becomes a warning that names it."""
    problems = []
    for point in sorted(points, key=lambda point: (point.name, point.value)):
        try:
            found = point.load()
            if callable(found) and not isinstance(found, ModuleType):
                found()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a stranger's import may raise anything, `sys.exit` included
            text = f"The formulas of {point.name} ({point.value}) were not loaded: {one_line(error)}."
            problems.append(Note(text, Level.WARNING))
    return tuple(problems)
