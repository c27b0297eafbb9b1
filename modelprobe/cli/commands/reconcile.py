"""`modelprobe reconcile`: what other tools count, each asked in a child process, and why it differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from modelprobe.cli.commands import peer_child
from modelprobe.cli.options import COUNTING, FusedOpt, InputOptions, ModelOptions, ReportOptions, target_request
from modelprobe.console import working
from modelprobe.cost.peers import PEERS, Peer
from modelprobe.cost.peers.answer import Answer
from modelprobe.cost.peers.process import Order, ask_all, cores, free_memory
from modelprobe.model.build import Question, build, fuse, record
from modelprobe.report.units import size

if TYPE_CHECKING:
    from modelprobe.cost.peers.comparison import PeerComparison
    from modelprobe.tracing.records import Trace

TOOL_TIMEOUT = 120
PROCESS = 600 * 2**20
"""What a child takes beside the model, in bytes: torch and torchvision imported."""

EXAMPLES = (
    "modelprobe reconcile resnet18",
    "modelprobe reconcile samples/models.py:TinyAttention --timeout 60",
)

TimeoutOpt = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", min=0.1, help="How long to wait for one tool.", rich_help_panel=COUNTING
    ),
]


def command(
    model: ModelOptions,
    inputs: InputOptions,
    *,
    fused: FusedOpt = False,
    timeout: TimeoutOpt = TOOL_TIMEOUT,
    report: ReportOptions,
) -> None:
    """What other tools count for the same model, and why it differs, operator by operator: thop, torchinfo, torch's
    counter, and fvcore and ptflops where installed. Each is asked in a process of its own."""
    report.check()
    report.emit(compare(target_request(model, inputs), fused=fused, timeout=timeout).report())


def compare(question: Question, *, fused: bool = False, timeout: float = TOOL_TIMEOUT) -> PeerComparison:
    """What every tool in `PEERS` says of the target, beside the ledger's own figure."""
    from modelprobe.cost.peers.comparison import compare_with_peers
    from modelprobe.model.zoo.published import published

    subject = fuse(build(question)) if fused else build(question)
    trace = record(subject, functions=True)
    peers = list(PEERS.values())
    answers = _answers(question, peers, trace, fused, timeout)
    figures = published(subject.target.source, subject.target.given, [ref.shape for ref in trace.inputs])
    return compare_with_peers(trace, peers, answers, figures if not fused else ())


def _answers(question: Question, peers: Sequence[Peer], trace: Trace, fused: bool, timeout: float) -> dict[str, Answer]:
    room, needed = free_memory(), _bytes_needed(trace)
    refused: dict[str, Answer] = {}
    orders = []
    for peer in peers:
        empty = peer.on_meta and question.device in (None, "meta")
        needs = PROCESS + (0 if empty else needed)
        if not peer.installed:
            refused[peer.name] = Answer(None, f"not installed: {peer.remedy}")
        elif room is not None and needs > room:
            text = f"not run: it needs {size(needs)} of memory for weights and activations, {size(room)} is free"
            refused[peer.name] = Answer(None, text)
        else:
            content = peer_child.content(question, peer.ask, fused=fused, on_meta=peer.on_meta)
            orders.append(Order(peer.name, peer_child.ENTRY, content, needs))
    workers = max(1, min(len(orders), cores()))
    with working("asking other tools") as show:
        told = ask_all(
            orders,
            timeout,
            workers=workers,
            memory=room,
            told=lambda running, done: show(
                f"{len(done)} of {len(orders)} tools have answered; asking {', '.join(running)}"
            ),
        )
    return {**refused, **told}


def _bytes_needed(trace: Trace) -> int:
    """The least that a real run takes: every weight, and what the greatest operator reads and writes."""
    weights = sum(entry.nbytes for entry in trace.tree.unique_state())
    return weights + max((op.bytes_read + op.bytes_written for op in trace.ops), default=0)
