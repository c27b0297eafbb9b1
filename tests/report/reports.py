"""Reports for the tests of renderers and output: a realistic one, and any one at all."""

from __future__ import annotations

from hypothesis import strategies as st

from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.units import Unit

TREE_COLUMNS = (
    Column("module", "Module"),
    Column("class", "Class", priority=3),
    Column("output", "Output shape", Unit.SHAPE, priority=4),
    Column("params", "Parameters", Unit.COUNT, priority=2),
    Column("macs", "MACs", Unit.MACS),
    Column("share", "Share", Unit.SHARE, priority=1, bar=True),
)


def _row(name: str, kind: str, shape: tuple[int, ...], params: int, macs: int, depth: int, mark: str = "") -> Row:
    return Row((name, kind, shape, params, macs, macs / 4_089_184_256), depth, mark, quiet=macs == 0)


def sample() -> Report:
    """What `flops resnet50` might say, with one name that wants to be markup."""
    tree = Table(
        TREE_COLUMNS,
        (
            _row("resnet50", "ResNet", (1, 1000), 25_557_032, 4_089_184_256, 0),
            _row("conv1", "Conv2d", (1, 64, 112, 112), 9_408, 118_013_952, 1),
            _row("relu", "ReLU", (1, 64, 112, 112), 0, 0, 1, "x49"),
            _row("layer1", "Sequential", (1, 256, 56, 56), 215_808, 667_942_912, 1),
            _row("0", "Bottleneck", (1, 256, 56, 56), 75_008, 231_211_008, 2),
            _row("downsample_of_the_first_block", "Conv2dNormActivation", (1, 256, 56, 56), 16_384, 51_380_224, 3),
            _row("1", "Bottleneck", (1, 256, 56, 56), 70_400, 640, 2),
            Row(("fc", "Linear", None, 2_049_000, None, None), 1, "never ran", quiet=True),
        ),
        "By module",
        tree=True,
        footer=("total", None, None, 25_557_032, 4_089_184_256, 1.0),
    )
    flat = Table(
        (Column("op", "Operator"), Column("calls", "Calls", Unit.COUNT), Column("cost", "Cost", Unit.MACS)),
        (Row(("convolution", 53, 4_087_136_256)), Row(("<b>[red]a|b</b>", 1, 2_048_000))),
        "By operator",
    )
    facts = Facts(
        (
            Fact("Model", "torchvision resnet50", detail="random weights"),
            Fact("Input", (1, 3, 224, 224), Unit.SHAPE),
            Fact("MACs", 4_089_184_256, Unit.MACS, "4,089,184,256"),
            Fact("Parameters", 25_557_032, Unit.COUNT),
        )
    )
    notes = (
        Note("2 operators have no rule: aten.foo (3 calls), aten.bar (1 call)."),
        Note(
            "Input 224 was assumed, since resnet50 declares it and none was given on the command line.", Level.ASSUMED
        ),
        Note("1 module never ran: fc.", Level.WARNING),
    )
    blocks = (facts, tree, *notes[:1], flat, *notes[1:])
    return Report("Cost of resnet50", "modelprobe.flops/1", blocks, {"macs": 4_089_184_256}, {"torch": "2.15.0"})


ANY_TEXT = st.text(st.characters(), max_size=40)
_CELLS = {
    Unit.TEXT: ANY_TEXT,
    Unit.COUNT: st.integers(0, 10**12),
    Unit.MACS: st.integers(0, 10**18),
    Unit.BYTES: st.integers(0, 10**15),
    Unit.SHARE: st.floats(0, 1),
    Unit.SECONDS: st.floats(0, 1e6),
    Unit.SHAPE: st.lists(st.integers(0, 10**6), max_size=6).map(tuple),
    Unit.YESNO: st.booleans(),
}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Any table, with a first column of text as tables of names have."""
    units = [Unit.TEXT, *draw(st.lists(st.sampled_from(list(_CELLS)), max_size=6))]
    columns = tuple(
        Column(f"c{i}", draw(ANY_TEXT), unit, draw(st.integers(0, 4)), unit is Unit.SHARE and draw(st.booleans()))
        for i, unit in enumerate(units)
    )
    cells = st.tuples(*(st.none() | _CELLS[unit] for unit in units))
    rows = st.builds(Row, cells, st.integers(0, 12), ANY_TEXT, st.booleans())
    return Table(
        columns, tuple(draw(st.lists(rows, max_size=5))), draw(ANY_TEXT), draw(st.booleans()), draw(st.none() | cells)
    )


def reports() -> st.SearchStrategy[Report]:
    """Any report: facts, tables and notes with any text in them."""
    fact = st.sampled_from(list(_CELLS)).flatmap(
        lambda unit: st.builds(Fact, ANY_TEXT, st.none() | _CELLS[unit], st.just(unit), ANY_TEXT)
    )
    facts = st.builds(lambda items, title: Facts(tuple(items), title), st.lists(fact, max_size=3), ANY_TEXT)
    notes = st.builds(Note, ANY_TEXT, st.sampled_from(list(Level)))
    blocks = st.lists(facts | tables() | notes, max_size=4).map(tuple)
    data = st.dictionaries(ANY_TEXT, ANY_TEXT | st.integers() | st.floats(), max_size=3)
    return st.builds(Report, ANY_TEXT, st.just("modelprobe.any/1"), blocks, data)
