"""Golden texts: what a report looked like when somebody last looked at it.

`golden("name.txt", text)` compares with tests/golden/name.txt; `pytest --update-golden` writes it. Read the diff.
"""

from __future__ import annotations

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: two workers' threads would wait for each other

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden texts instead of comparing")


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test fetches weights, and none finds any that somebody fetched before."""
    monkeypatch.setenv("MODELPROBE_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.getbasetemp() / "torch"))


@pytest.fixture(autouse=True, scope="session")
def _no_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the cache directory of whoever runs it, or is answered by what another one recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MODELPROBE_STORE", "0")
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the one kept under tests/golden."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden text {name}: run pytest --update-golden, and read what it wrote"
        assert text == path.read_text(encoding="utf-8")

    return compare


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum up what tests counted by `record_property("figure NAME", {"what": count})`, in whichever process they ran."""
    sums: dict[str, Counter[str]] = {}
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        for key, counts in report.user_properties:
            if key.startswith("figure "):
                sums.setdefault(key.removeprefix("figure "), Counter()).update(counts)
    for name, counted in sums.items():
        terminalreporter.write_line(f"{name}: {', '.join(f'{what} {count:,}' for what, count in counted.items())}")
