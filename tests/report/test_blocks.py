"""The blocks of a report, and results as plain values."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

from modelprobe.environment import Device, EnvResult, MachineReport, Package, TorchBuild, brief
from modelprobe.report.blocks import Column, Facts, Level, Note, Report, Row, Table, plain
from modelprobe.report.formats import RENDERERS, Style
from modelprobe.report.result import Result


class _Kind(str, Enum):
    A = "a"


@dataclass(frozen=True, slots=True)
class _Answer(Result):
    name: str
    shape: tuple[int, ...]
    kind: _Kind = _Kind.A
    names: frozenset[str] = frozenset({"b", "a"})
    path: Path = Path("x")
    hidden: object = field(default=None, repr=False)

    def report(self):
        return Report("An <answer>", "modelprobe.test/1", (Facts(()),), self.to_dict())


def test_plain_values():
    expected = {"name": "n", "shape": [1, 2], "kind": "a", "names": ["a", "b"], "path": "x"}
    assert _Answer("n", (1, 2)).to_dict() == expected


def test_a_result_may_hold_plain_values_only():
    with pytest.raises(TypeError, match="plain values only, not object"):
        plain({"x": object()})


def test_results_are_slotted_and_shown_in_notebooks():
    answer = _Answer("n", ())
    assert not hasattr(answer, "__dict__")
    assert "An &lt;answer&gt;" in answer._repr_html_()
    with pytest.raises(NotImplementedError):
        Result().report()


def test_rows_and_footer_have_a_cell_for_each_column():
    with pytest.raises(ValueError, match="2 cells under 1 columns"):
        Table((Column("a", "A"),), (Row((1, 2)),))
    with pytest.raises(ValueError, match="0 cells"):
        Table((Column("a", "A"),), (), footer=())


def test_notes_and_tables_in_order():
    table, notes = Table((), ()), (Note("a"), Note("b", Level.WARNING))
    report = Report("t", "s/1", (notes[0], table, notes[1]))
    assert (report.notes, report.tables) == (notes, (table,))


def environment(*packages):
    return EnvResult(
        modelprobe="0.1.0",
        python="3.11.7 (CPython, x86_64)",
        packages=packages,
        machine=MachineReport("Linux", "A CPU", 4, 2, 2**34),
        torch=TorchBuild("13.2", None, "9.26.0", False, 2, 2),
        devices=(Device("cpu", "A CPU", 2**34), Device("cuda:0", "A GPU", 2**35, "compute capability 9.0")),
    )


def test_the_environment_in_markdown(golden):
    packages = (Package("torch", "2.15.0"), Package("timm", None))
    golden("env.md", RENDERERS["markdown"].render(environment(*packages).report(), Style()))


def test_a_torchvision_of_another_torch_is_named_with_its_remedy():
    broken = Package("torchvision", "0.29.2", "RuntimeError: operator torchvision::nms does not exist")
    (note,) = environment(broken).report().notes
    assert note.level is Level.WARNING
    assert "pip install" in note.text


def test_brief_is_what_every_json_carries():
    assert set(brief()) == {"modelprobe", "python", "torch"}


@pytest.mark.parametrize("name", ["terminal", "markdown", "html"])
def test_the_heading_says_which_zoo_a_name_is_of(name: str) -> None:
    """Several zoos have some names; a path of a person's own, or a report of several models, is left as it is."""
    env = {"model": "resnet50", "origin": "timm"}
    texts = {
        title: RENDERERS[name].render(Report(title, "modelprobe.test/1", (), env=given), Style(80))
        for title, given in {
            "resnet50: summary": env,
            "Comparison": env,
            "net.py: summary": {"model": "net.py", "origin": "python file"},
        }.items()
    }  # fmt: skip
    assert "resnet50 (timm): summary" in texts["resnet50: summary"]
    assert "(timm)" not in texts["Comparison"]
    assert "net.py: summary" in texts["net.py: summary"]
