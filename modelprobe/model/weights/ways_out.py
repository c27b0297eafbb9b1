"""Options that make a file fit where it did not: the head left out or its classes set, one network of several chosen.

Each is tried before it is named: the plan with it is complete and certain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from modelprobe.checkpoint.keys.name_tree import drop_patterns
from modelprobe.checkpoint.keys.plan import KeyPlan
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.errors import ProbeError
from modelprobe.model.weights.keys_result import repair_command
from modelprobe.model.weights.load import Fit, planned, refusals
from modelprobe.model.weights.request import RepairOptions, plan_options, reference_for

MAX_ROUNDS = 4
MAX_PATTERNS = 8
MAX_LOST_SHARE = 0.1
"""Of the tensors that are expected: more is another network rather than one without its head."""

MAX_LOST = 8
PREFIX = re.compile(r"--prefix (\S+)")


@dataclass(frozen=True, slots=True)
class WayOut:
    """A command that was tried: `loaded` of the `expected` tensors come from the file, `lost` keep their values."""

    command: str
    loaded: int
    expected: int
    lost: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What the command gives, in words."""
        if not self.lost:
            return f"all {self.expected:,} tensors are loaded"
        stay = "it keeps its value" if len(self.lost) == 1 else "they keep their values"
        more = f" and {len(self.lost) - 1:,} more" if len(self.lost) > 1 else ""
        return f"{self.loaded:,} of {self.expected:,} tensors are loaded; {self.lost[0]}{more} not: {stay}"


def ways_out(fitted: Fit, request: RepairOptions, output: Sequence[str] = ()) -> tuple[WayOut, ...]:
    """The commands that load what fits, the most complete first; none where a file fits or nothing helps.

    `output` are the options for the new file, where they were given.
    """
    if fitted.target is None or not refusals(fitted):
        return ()
    made: dict[str, WayOut] = {}
    for variant in _variants(fitted.plan, request):
        found = _searched(fitted.found, variant)
        if found is not None and (not found[0].allowed_missing or variant is request):
            way = _way_out(fitted.found, *found, output)
            made.setdefault(way.command, way)
    return tuple(sorted(made.values(), key=lambda way: len(way.lost)))


def _variants(plan: KeyPlan, request: RepairOptions) -> Iterator[RepairOptions]:
    """With the classes that the file has, as far as the constructor takes them; and as it was asked."""
    if not any(setting.startswith("num_classes") for setting in request.settings):
        heads = {part.name: part.shape[0] for part, _ in plan.misshapen if part.shape}
        named = [heads[name] for problem in plan.problems for name in problem.names if name in heads]
        classes = named[0] if named else 0
        yield replace(request, settings=(*request.settings, f"num_classes={classes}"))
    yield request


def _searched(found: Checkpoint, request: RepairOptions) -> tuple[KeyPlan, RepairOptions] | None:
    """The plan that is good, with what was added to the request step by step."""
    try:
        _, reference = reference_for(request)
        for _ in range(MAX_ROUNDS):
            plan = planned(found, request.branch, reference, plan_options(request))
            if plan.good and not plan.structural:
                return plan, request
            following = _next(plan, request)
            if following is None:
                return None
            request = following
    except ProbeError:  # the network does not take that many classes, for one
        return None
    return None


def _next(plan: KeyPlan, request: RepairOptions) -> RepairOptions | None:
    """The request with one thing more that could help."""
    for problem in plan.problems:
        prefix = PREFIX.search(problem.hint)
        if problem.rule == "head of other classes" and not request.drop_head:
            return replace(request, drop_head=True)
        if problem.rule == "which network" and prefix and not request.prefix:
            return replace(request, prefix=prefix[1])
        return None
    lost = [want.name for want in plan.missing] + [part.name for part, _ in plan.misshapen]
    leftover = {part.name for part in (*plan.unexpected, *(part for part, _ in plan.misshapen))}
    kept = [part.name for part in plan.parts if part.name not in leftover]
    expected = len(kept) + len(lost)
    if len(kept) * 2 <= expected or len(lost) > max(MAX_LOST, MAX_LOST_SHARE * expected):
        return None
    spoken = [source for part in plan.parts if part.name not in leftover for source in part.sources]
    patterns = drop_patterns({*lost, *leftover}, [*kept, *spoken])  # --drop goes by both names
    if not patterns or len(patterns) > MAX_PATTERNS or set(patterns) <= set(request.drop):
        return None
    return replace(request, drop=(*request.drop, *patterns))


def _way_out(found: Checkpoint, plan: KeyPlan, request: RepairOptions, output: Sequence[str]) -> WayOut:
    expected = len(plan.parts) + len(plan.allowed_missing)
    command = repair_command(found.path, plan, request.arguments(), output)
    return WayOut(command, len(plan.parts), expected, plan.allowed_missing)
