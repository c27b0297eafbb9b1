"""What continuous integration takes of a check: JUnit XML, GitHub's annotations and its job summary."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from modelprobe.cost.budgets.check import FIGURES, CheckResult
from modelprobe.report.formats import RENDERERS, Style
from modelprobe.report.units import printable

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


def junit_xml(result: CheckResult) -> str:
    """A test suite with a case for each figure of each model."""
    cases = [(model, figure) for model in result.models for figure in model.figures]
    failures = sum(bool(figure.breaches) for _, figure in cases)
    suite = ElementTree.Element("testsuite", name="modelprobe check", tests=str(len(cases)), failures=str(failures))
    for model, figure in cases:
        name = FIGURES[figure.figure].title
        case = ElementTree.SubElement(suite, "testcase", classname=printable(model.target), name=name)
        for text in figure.breaches:
            ElementTree.SubElement(case, "failure", message=printable(text))
    ElementTree.indent(suite)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ElementTree.tostring(suite, encoding='unicode')}\n"


def github_annotations(result: CheckResult) -> Iterator[str]:
    """Lines that GitHub shows at the pull request: one error for each breach."""
    for text in result.breaches:
        escaped = printable(text).replace("%", "%25")
        yield f"::error title=modelprobe check::{escaped}"


def append_summary(result: CheckResult) -> str:
    """Add the report as Markdown to the job's summary; its file, or "" outside GitHub's runners."""
    place = os.environ.get(SUMMARY_VARIABLE, "")
    if place:
        text = RENDERERS["markdown"].render(result.report(), Style(120, colour=False, unicode=True))
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    return place
