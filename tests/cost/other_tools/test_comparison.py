"""`reconcile`: the table, its reasons, and what happens around it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from modelprobe.cost.conventions import find_convention
from modelprobe.cost.other_tools import OTHER_TOOLS, reconcile
from modelprobe.cost.other_tools.ask import by_name, positional
from modelprobe.cost.other_tools.comparison import ToolComparison, compare_with_tools
from modelprobe.cost.other_tools.tool import Tool, ToolResult
from modelprobe.model.zoo.published import Published
from modelprobe.report.blocks import Level, Report
from modelprobe.report.formats import RENDERERS, Style
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.records import Trace
from tests.command_line import SAMPLES, CommandLine, said
from tests.cost.other_tools import fakes

OLDER = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 15)

TINY = f"{SAMPLES}:TinyCNN"
UNKNOWN = [dataclasses.replace(tool, package="") for tool in OTHER_TOOLS.values()]
"""The tools as if nobody knew their versions, so that texts stay the same."""


class Small(nn.Module):
    """A convolution, attention in its own module, a product in no module: what tools see differently."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x).flatten(2).mT)
        return self.attention(x, x, x, need_weights=False)[0] @ self.conv.bias


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture(scope="module")
def recorded() -> Trace:
    return trace(Small(), torch.zeros(1, 3, 16, 16), functions=True, env={"inputs": ["x: 1x3x16x16 float32"]})


def predicted(recorded: Trace, **others: ToolResult) -> dict[str, ToolResult]:
    """What the conventions say as if the tools had said it, but for `others`."""
    said = {name: ToolResult(find_convention(name).predict(recorded).total, place="cpu") for name in OTHER_TOOLS}
    return {**said, **{name.replace("_", "-"): answer for name, answer in others.items()}}


def rendered(report: Report, width: int) -> str:
    return RENDERERS["terminal"].render(report, Style(width, colour=False, unicode=True))


def rows(result: ToolComparison) -> dict[str, object]:
    return {row.tool: row for row in result.rows}


def test_reasons_add_up_to_the_difference(recorded: Trace) -> None:
    result = compare_with_tools(recorded, list(OTHER_TOOLS.values()), predicted(recorded))
    for row in result.rows:
        assert sum(reason.difference for reason in row.reasons) == row.macs - result.macs
        assert (row.unexplained, row.problem) == (0, "")
    # 16 tokens of 8: 4 projections of 16 x 8 x 8, scores and weighted sum of 2 heads 16 x 16 x 4 each
    less = {reason.kind: (reason.difference, reason.why) for reason in rows(result)["thop"].reasons}
    assert less["attention"] == (-2 * 2 * 16 * 16 * 4, "not seen in MultiheadAttention")
    assert less["matmul"][0] == -(4 * 16 * 8 * 8 + 16 * 8)
    assert less["norm"] == (4 * 16 * 8, "4 per element")
    assert rows(result)["torch"].macs == rows(result)["torch"].figure / 2


def test_what_no_rule_explains_is_said(recorded: Trace) -> None:
    right = find_convention("torch").predict(recorded).total
    answers = predicted(recorded, torch=ToolResult(right + 3000), fvcore=ToolResult(None, "raised TypeError: no"))
    result = compare_with_tools(recorded, list(OTHER_TOOLS.values()), answers)
    assert rows(result)["torch"].unexplained == 1500  # 3,000 FLOPs
    assert rows(result)["fvcore"].problem == "raised TypeError: no"
    loud = [note.text for note in result.report().notes if note.level is Level.WARNING]
    assert loud == [
        "1 of 6 rows have no figure: fvcore.",
        "torch: +1.500 k MACs are not explained by its known rules.",
    ]
    text = rendered(result.report(), 160)
    assert "unexplained: +1.500 k" in text


def test_what_our_own_figure_leaves_out_is_said(recorded: Trace) -> None:
    first = recorded.ops[0]._replace(name="mine.odd", status="uncounted", macs=0)
    result = compare_with_tools(dataclasses.replace(recorded, ops=(first, *recorded.ops[1:])), [], {})
    assert [note.text for note in result.notes if note.level is Level.WARNING] == [
        "Not in modelprobe's own figure (no formula): mine.odd x1."
    ]


def test_a_published_figure_is_right_to_its_decimals(recorded: Trace) -> None:
    own = recorded.macs
    near = Published(("V1", "V2"), round(own / 1e6) * 10**6, recorded.tree.parameter_count())
    far = Published(("V3",), own + 5 * 10**6, recorded.tree.parameter_count())
    other = Published(("V3",), own + 5 * 10**6, 7)
    depends = Published(("V4",), 10**9, 7, of_data=True)
    result = compare_with_tools(recorded, [], {}, [near, far, other, depends])
    assert [row.unexplained for row in result.rows] == [0, 5 * 10**6, None, None]
    assert result.rows[0].remark == "V1 of torchvision"
    assert result.rows[2].remark == f"V3 of torchvision, with 7 parameters instead of {recorded.tree.parameter_count()}"
    assert "depends" in result.rows[3].remark


@pytest.mark.skipif(OLDER, reason="torch's own counter saw less before 2.15, and the golden text has its row")
@pytest.mark.parametrize("width", [80, 160])
def test_the_table(recorded: Trace, width: int, golden: Callable[[str, str], None]) -> None:
    answers = predicted(
        recorded,
        fvcore=ToolResult(None, "not installed: pip install modelprobe[compare]"),
        ptflops=ToolResult(None, "stopped after 120 s (--timeout)"),
        ptflops_aten=ToolResult(find_convention("ptflops-aten").predict(recorded).total + 1234),
    )
    published = Published(("IMAGENET1K_V1",), 10**6, recorded.tree.parameter_count())
    result = compare_with_tools(recorded, UNKNOWN, answers, [published])
    golden(f"reconcile.{width}.txt", rendered(result.report(), width))


def test_each_tool_and_its_convention_mean_the_same_unit() -> None:
    for name, tool in OTHER_TOOLS.items():
        convention = find_convention(tool.convention)
        assert (name, tool.unit, tool.per_mac) == (convention.name, convention.amount, convention.per_mac)


def test_arguments_by_place_and_by_name() -> None:
    class Net(nn.Module):
        def forward(self, a: int, b: int = 2, *, c: int = 3) -> None: ...

    assert positional(Net(), (1,), {"b": 5}) == (1, 5)
    assert by_name(Net(), (1,), {"c": 6}) == {"a": 1, "c": 6}
    with pytest.raises(TypeError, match="c has a name only"):
        positional(Net(), (1,), {"c": 6})
    with pytest.raises(TypeError, match="x has none"):
        by_name(nn.Sequential(type("Any", (nn.Module,), {"forward": lambda self, *x: x})())[0], (1, 2), {})


def test_torchinfo_is_given_names_that_it_uses_itself() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor, scale: torch.Tensor, *, twice: bool = False) -> torch.Tensor:
            return self.layer(x) * scale * (1 + twice)

    ask, scale = OTHER_TOOLS["torchinfo"].ask, torch.ones(1)
    x = torch.zeros(2, 8)
    assert ask(Scaled().eval(), (), {"x": x, "scale": scale}) == 2 * (8 * 4 + 4)
    assert ask(Scaled().eval(), (x, scale), {"twice": True}) == 2 * (8 * 4 + 4)


# The command, with tools of ours in the place of the real ones


def tools(monkeypatch: pytest.MonkeyPatch, *given: Tool) -> None:
    monkeypatch.setattr(reconcile, "OTHER_TOOLS", {tool.name: tool for tool in given})


MISSING = Tool("missing", "no_such_package_at_all", "MACs", 1, fakes.ruins, extra="compare")
RUINS = Tool("ruins", "torch", "MACs", 1, fakes.ruins)
COUNTS = Tool("counts", "torch", "FLOPs", 2, fakes.counts_bytes)


@pytest.mark.zoo
def test_tools_that_misbehave_are_rows_and_touch_nothing(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(monkeypatch, MISSING, RUINS, COUNTS)
    before = (torch.nn.Linear.forward, torch.add, torch.get_default_dtype())
    how = ("--input", "2x3x8x8", "--dtype", "float64", "--set", "width=4", "--timeout", "100")
    answer = cli("reconcile", TINY, *how, "-f", "json", "--strict")
    assert answer.code == 3
    found = json.loads(answer.out)
    table = {row["tool"]: row for row in found["rows"]}
    assert table["missing"]["problem"] == "not installed: pip install modelprobe[compare]"
    assert table["ruins"]["problem"] == "sys.exit(5) was called"
    assert table["counts"]["figure"] == 2 * 3 * 8 * 8 * 8  # the child was given this very input
    assert (table["counts"]["macs"], table["counts"]["place"]) == (2 * 3 * 8 * 8 * 4, "cpu")
    assert table["counts"]["unexplained"] is None
    assert "2 of 3 rows have no figure: missing, ruins" in answer.err
    assert "ruined" not in answer.out + answer.err
    assert before == (torch.nn.Linear.forward, torch.add, torch.get_default_dtype())


def test_a_tool_that_does_not_fit_into_memory_is_not_run(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(monkeypatch, COUNTS)
    monkeypatch.setattr(reconcile, "free_memory", lambda: 10**8)
    answer = cli("reconcile", TINY, "--input", "32")
    assert answer.code == 0
    assert "not run: it needs 600" in " ".join(answer.out.split())
    assert "95.37 MiB is free" in " ".join(answer.out.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--convention", "thop"), "no such option: --convention"),
        (("--depth", "1"), "no such option: --depth"),
        (("--timeout", "0"), "--timeout"),
    ],
)
def test_options_that_mean_nothing_together(cli: CommandLine, arguments: tuple[str, ...], expected: str) -> None:
    answer = cli("reconcile", TINY, *arguments)
    assert answer.code == 2
    assert expected in said(answer)


@pytest.mark.parametrize(
    ("padding", "bias", "thop", "torchinfo"),
    [
        # 4 channels of 5 x 5 meet 6 filters of 3 x 3: 25 x 4 x 54. With stride 2 the output has 11 x 11 positions; thop
        # and torchinfo let 4 x 54 weights meet each, torchinfo adds 6 biases to each.
        (0, True, (121 - 25) * 216, (121 - 25) * 216 + 121 * 6),
        (0, False, (121 - 25) * 216, (121 - 25) * 216),
        # with padding 4 it has 3 x 3, fewer than the input
        (4, False, (9 - 25) * 216, (9 - 25) * 216),
    ],
)
def test_transposed_convolutions_by_hand(padding: int, bias: bool, thop: int, torchinfo: int) -> None:
    model = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=padding, bias=bias)
    found = trace(model, torch.zeros(1, 4, 5, 5), functions=True)
    rows = {row.tool: row for row in compare_with_tools(found, UNKNOWN, predicted(found)).rows}
    assert found.macs == 25 * 216
    for tool, difference, why in (
        ("thop", thop, "the filter per output position"),
        ("torchinfo", torchinfo, "filter and bias per output position"),
    ):
        (reason,) = rows[tool].reasons
        assert (reason.kind, reason.difference, reason.why) == ("transposed conv", difference, why)
    assert not rows["fvcore"].reasons
    assert not rows["torch"].reasons
