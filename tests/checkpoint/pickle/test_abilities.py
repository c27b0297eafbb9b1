"""Whose a module is: of the standard library, or somebody's own package of the same name."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder

import pytest

from modelprobe.checkpoint.pickle.abilities import PACKAGES, owner_of
from modelprobe.checkpoint.pickle.globals import Trust, judged


def test_the_packages_of_the_standard_library_are_listed() -> None:
    specs = {name: PathFinder.find_spec(name) for name in sys.stdlib_module_names}
    found = {name for name, spec in specs.items() if spec and spec.submodule_search_locations is not None}
    assert len(found) > 20
    assert found - PACKAGES - {"test"} == set()


@pytest.mark.parametrize("module", ["os.path", "test", "test.support.os_helper", "test.test_os", "code", "sys.modules"])
def test_modules_of_the_standard_library(module: str) -> None:
    assert owner_of(module) == module.partition(".")[0]
    assert judged(module, "system", called=True).trust is Trust.DANGEROUS


@pytest.mark.parametrize("module", ["code.models", "test.nets", "profile.net", "queue.workers", "commands.train"])
def test_packages_of_the_same_name(module: str) -> None:
    assert judged(module, "Net", called=True).trust is Trust.UNKNOWN
    assert judged(module, "system", called=True, texts=["true"], reduced=True).trust is Trust.DANGEROUS
