"""The report of `modelprobe memory`: the peak of a recorded run, its parts, when it is, and what is alive then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from modelprobe.cost.memory.allocator import simulate
from modelprobe.report.blocks import Column, Fact, Facts, Figure, Level, Note, Report, Row, Table, Tone
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, size
from modelprobe.tracing.step_records import MemoryBlock, MemoryTrace

LIKE = ("cpu", "cuda")
ROLES = {
    "weight": "weights",
    "buffer": "buffers",
    "input": "inputs",
    "gradient": "gradients",
    "optimizer": "optimizer_state",
}
PARTS = (*ROLES.values(), "saved_activations", "temporaries")
LARGEST = 10
CURVE_POINTS = 60


class Moment(NamedTuple):
    """Bytes alive after one event of a step, in the order of `PARTS`."""

    phase: str
    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AliveBlock:
    """One block of memory that is alive at the peak. Paths and operators are empty where there are none."""

    part: str
    nbytes: int
    made_by: str
    made_in: str
    needed_by: str
    needed_in: str


@dataclass(frozen=True, slots=True)
class MemoryResult(Result):
    """Bytes of one inference or training step. `peak_bytes` is everything alive at the peak, weights included.

    `parts` splits it. `above_start_bytes` is the peak less weights, buffers, inputs and, from the second step on, the
    optimizer's state. `first_step_peak_bytes` is that of the first step, in which the optimizer makes its state.
    `allocated_bytes` is what torch's allocator on a GPU hands out for it, in blocks that are up to 1 MiB larger, and
    `reserved_bytes` what it takes from the device; both are None on the CPU. `context_bytes` stands outside it.
    `curve` is the largest sum in each of equal stretches of the step, `line` every moment of it.
    """

    model: str
    inputs: tuple[str, ...]
    mode: str
    device: str
    optimizer: str
    peak_bytes: int
    parts: Mapping[str, int]
    above_start_bytes: int
    first_step_peak_bytes: int | None
    peak_phase: str
    peak_module: str
    peak_operator: str
    allocated_bytes: int | None
    reserved_bytes: int | None
    context_bytes: int
    alive: tuple[AliveBlock, ...]
    curve: tuple[int, ...]
    notes: tuple[Note, ...]
    largest_batch: int | None = None
    limit_bytes: int | None = None
    plot: str | None = None
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)
    line: tuple[Moment, ...] = field(repr=False, default=())

    @property
    def needed_bytes(self) -> int:
        """What the device has to have: the peak on a CPU; reserved and context on a GPU."""
        return self.peak_bytes if self.reserved_bytes is None else self.reserved_bytes + self.context_bytes

    def report(self) -> Report:
        """Facts, the parts, what is alive at the peak, the curve, notes."""
        drawn = (Figure(Path(self.plot), f"{self.model}: memory over time"),) if self.plot else ()
        return self.blocks_report(
            f"{self.model}: memory of {self.what}", "modelprobe.memory/1", Facts(_memory_facts(self)),
            _parts_table(self), _alive_table(self), *drawn, *self.notes,
        )  # fmt: skip

    @property
    def what(self) -> str:
        """What was run."""
        return "one training step" if self.mode == "train" else "inference"


@dataclass(frozen=True, slots=True)
class MemoryByBatch(Result):
    """The memory of several batches, each recorded."""

    batches: tuple[int, ...]
    results: tuple[MemoryResult, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """A row for each batch."""
        first = self.results[0]
        columns = (
            Column("batch", "Batch", Unit.COUNT),
            Column("peak_bytes", "Peak", Unit.BYTES),
            Column("above_start_bytes", "Above start", Unit.BYTES, priority=1),
            *((Column("reserved_bytes", "Reserved", Unit.BYTES),) if first.reserved_bytes is not None else ()),
            Column("peak_phase", "When", priority=2),
            Column("peak_module", "In", priority=3),
        )
        rows = []
        for batch, found in zip(self.batches, self.results, strict=True):
            reserved = () if found.reserved_bytes is None else (found.reserved_bytes,)
            cells = (batch, found.peak_bytes, found.above_start_bytes, *reserved, found.peak_phase, found.peak_module)
            rows.append(Row(cells))
        notes = dict.fromkeys(note for found in self.results for note in found.notes)
        return self.blocks_report(
            f"{first.model}: memory of {first.what} by batch", "modelprobe.memory_by_batch/1",
            Table(columns, tuple(rows), "by batch", key="rows"), *notes,
        )  # fmt: skip


def estimate_of(
    trace: MemoryTrace, *, like: str = "cpu", optimizer: str = "sgd", context: int = 0, model: str = ""
) -> MemoryResult:
    """The peak of the recorded run on a device of that kind. The last step counts: from then on they are alike."""
    line, first, peak, at = _peak_of(trace, like)
    alive = [block for block in trace.blocks if block.made <= at and (block.freed < 0 or block.freed > at)]
    alive = [block for block in alive if _lies_there(block, like)]
    event, last = trace.events[at], max(0, trace.steps - 1)
    parts = dict.fromkeys(PARTS, 0)
    for block in alive:
        parts[_part_of(block)] += block.nbytes
    reserved = allocated = None
    notes = [*trace.notes, *_notes(trace, like)]
    if like == "cuda":
        events = [
            (e.block, trace.blocks[e.block].nbytes if e.taken else -1)
            for e in trace.events
            if _lies_there(trace.blocks[e.block], like)
        ]
        allocator = simulate(events)
        reserved, allocated = allocator.peak_reserved, allocator.peak_allocated
    held = sum(parts[name] for name in ("weights", "buffers", "inputs")) + (parts["optimizer_state"] if last else 0)
    replaced = (block for block in trace.blocks if block.made < trace.start and 0 <= block.freed <= at)
    held += sum(block.nbytes for block in replaced if _lies_there(block, like))
    name = str(trace.env.get("model", model))
    largest = sorted(alive, key=lambda block: -block.nbytes)[:LARGEST]
    return MemoryResult(
        name, tuple(trace.env.get("inputs", ())), "train" if trace.steps else "eval", like,
        optimizer if trace.steps else "", peak, parts, peak - held, first if trace.steps else None,
        event.phase if at >= trace.start else "forward", event.module if at >= trace.start else "",
        event.operator if at >= trace.start else "", allocated, reserved, context if like == "cuda" else 0,
        tuple(map(_alive, largest)), _curve(line), tuple(notes), env=trace.env, line=line,
    )  # fmt: skip


def _peak_of(trace: MemoryTrace, like: str) -> tuple[tuple[Moment, ...], int, int, int]:
    """The last step moment by moment, the first step's peak, the last one's, and the event at which that is."""
    now, first, peak, at, last = 0, 0, -1, 0, max(0, trace.steps - 1)
    parts = dict.fromkeys(PARTS, 0)
    line: list[Moment] = []
    for number, event in enumerate(trace.events):
        block = trace.blocks[event.block]
        if _lies_there(block, like):
            change = block.nbytes if event.taken else -block.nbytes
            now += change
            parts[_part_of(block)] += change
        if event.step == 0:
            first = max(first, now)
        if number >= trace.start - 1 and event.step == last:
            line.append(Moment(event.phase if number >= trace.start else "forward", tuple(parts.values())))
            if now > peak:
                peak, at = now, number
    return tuple(line), first, max(peak, 0), at


def _curve(line: Sequence[Moment]) -> tuple[int, ...]:
    sums = [sum(moment.parts) for moment in line]
    stretch = max(1, -(-len(sums) // CURVE_POINTS))
    return tuple(max(sums[start : start + stretch]) for start in range(0, len(sums), stretch))


def _lies_there(block: MemoryBlock, like: str) -> bool:
    # On a GPU, what the model makes on the CPU lies there, and so do an optimizer's counts of steps.
    return like == "cpu" or block.device != "cpu"


def _part_of(block: MemoryBlock) -> str:
    if block.role in ROLES:
        return ROLES[block.role]
    return "saved_activations" if block.kept else "temporaries"


def _alive(block: MemoryBlock) -> AliveBlock:
    part = _part_of(block)
    return AliveBlock(
        part, block.nbytes, block.made_by if part not in ("weights", "buffers", "inputs") else "", block.module,
        block.last_used_by, block.last_used_in,
    )  # fmt: skip


def _notes(trace: MemoryTrace, like: str) -> Iterable[Note]:
    if trace.steps:
        loss = f"the loss {trace.env['loss']}" if "loss" in trace.env else "loss as the sum of the outputs"
        yield Note(
            f"The step: forward, {loss}, backward, optimizer, zero_grad(set_to_none=True). "
            "The optimizer's state exists, gradients of the step before do not.",
            Level.INFO,
        )
    if like == "cuda":
        yield Note(
            "Copies that cuDNN makes are predicted by a rule measured on an H100; --context has room for cuBLAS.",
            Level.INFO,
        )
    if trace.env.get("device") not in ("meta", None):
        yield Note("The run was for real, since the model needs values: attention kernels are those here.", Level.INFO)


def _memory_facts(result: MemoryResult) -> tuple[Fact, ...]:
    where = f"{result.peak_phase}, {result.peak_operator}" + (f" in {result.peak_module}" if result.peak_module else "")
    facts = [
        Fact("Input", ", ".join(result.inputs) or "none"),
        Fact("Peak", result.peak_bytes, Unit.BYTES, where, Tone.KEY),
        Fact("Above start", result.above_start_bytes, Unit.BYTES, "beside what is there between steps"),
    ]
    if result.reserved_bytes is not None:
        detail = f"torch's caching allocator; {size(result.context_bytes)} of context beside it"
        facts.append(Fact("Allocated", result.allocated_bytes, Unit.BYTES, "the same in torch's blocks"))
        facts.append(Fact("Reserved", result.reserved_bytes, Unit.BYTES, detail))
    if result.largest_batch is not None and result.limit_bytes is not None:
        facts.append(Fact("Largest batch", result.largest_batch, Unit.COUNT, f"within {size(result.limit_bytes)}"))
    if result.mode == "train":
        facts.append(Fact("Optimizer", result.optimizer))
    if "autocast" in result.env:
        facts.append(Fact("Autocast", f"to {result.env['autocast']}"))
    facts.append(Fact("Over time", _spark(result.curve)))
    return tuple(facts)


def _spark(curve: Sequence[int]) -> str:
    top = max(curve, default=0) or 1
    return "".join("▁▂▃▄▅▆▇█"[min(7, value * 8 // top)] for value in curve)


def _parts_table(result: MemoryResult) -> Table:
    columns = (Column("part", "Part"), Column("bytes", "At the peak", Unit.BYTES), Column("share", "Share", Unit.SHARE))
    whole = result.peak_bytes or 1
    rows = [Row((name.replace("_", " "), nbytes, nbytes / whole)) for name, nbytes in result.parts.items() if nbytes]
    return Table(columns, tuple(rows), "parts", key="part_rows")


def _alive_table(result: MemoryResult) -> Table:
    columns = (
        Column("part", "Part"),
        Column("bytes", "Size", Unit.BYTES),
        Column("made_by", "Made by"),
        Column("made_in", "In", priority=2),
        Column("needed_by", "Last needed by", priority=1),
        Column("needed_in", "In", priority=3),
    )
    rows = tuple(
        Row((b.part.replace("_", " "), b.nbytes, b.made_by, b.made_in, b.needed_by, b.needed_in)) for b in result.alive
    )
    return Table(columns, rows, "largest blocks at the peak")
