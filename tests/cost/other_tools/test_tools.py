"""`reconcile` with the real tools, as they are installed here, through the command line."""

from __future__ import annotations

import json

import pytest

from modelprobe.cost.other_tools import OTHER_TOOLS
from tests.command_line import SAMPLES, CommandLine

pytestmark = pytest.mark.zoo

TAGGER = (f"{SAMPLES}:Tagger", "--inputs-from", f"{SAMPLES}:tagger_inputs")
"""Packed sequences: ptflops raises."""


@pytest.mark.parametrize(
    "arguments",
    [
        ("resnet18", "--input", "64", "--batch", "2", "--set", "num_classes=10", "--dtype", "bfloat16"),
        ("vit_b_32",),
        ("timm:repvgg_a0", "--fused", "--input", "64"),
        TAGGER,
    ],
    ids=lambda arguments: arguments[0].rpartition(":")[2],
)
def test_every_figure_is_explained(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    answer = CommandLine(capsys)("reconcile", *arguments, "-f", "json")
    assert answer.code == 0
    rows = {row["tool"]: row for row in json.loads(answer.out)["rows"]}
    for name, tool in OTHER_TOOLS.items():
        if not tool.installed:
            assert rows[name]["problem"] == f"not installed: {tool.remedy}"
        elif arguments is TAGGER and name == "ptflops":
            assert "PackedSequence" in rows[name]["problem"]
        else:
            assert (rows[name]["problem"], rows[name]["unexplained"]) == ("", 0)
    assert ("published" in rows) == (arguments == ("vit_b_32",))
