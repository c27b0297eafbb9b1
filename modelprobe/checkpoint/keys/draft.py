"""The draft of a repair: each tensor of the result, what it is made of, and which rules brought it there.

To add a rule, follow the recipe in `modelprobe guide architecture`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from modelprobe.checkpoint.adapters.lora import Lora
from modelprobe.checkpoint.keys.reference import Expectation, ExpectedTensor

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class ValueStep:
    """One thing that is done to values. `op` is a name of `apply.OPS`, `numbers` are its arguments."""

    op: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the result: its name, what it will be, which tensors of the file it is made of, by which rules."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    sources: tuple[str, ...]
    steps: tuple[ValueStep, ...] = ()
    role: str | None = None
    rules: tuple[str, ...] = ()

    def then(self, op: str, *numbers: int, shape: tuple[int, ...] | None = None, dtype: str = "") -> Part:
        """The same with one more step."""
        return replace(
            self,
            steps=(*self.steps, ValueStep(op, numbers)),
            shape=self.shape if shape is None else shape,
            dtype=dtype or self.dtype,
        )


@dataclass(frozen=True, slots=True)
class AppliedRule:
    """A rule that changed something: in words why, how many tensors, and a few of them as (before, after)."""

    rule: str
    reason: str
    tensors: int
    examples: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class DroppedTensor:
    """A tensor of the file that the result leaves out."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something does not fit, in words, with what would help. `names` are those of the file or the reference."""

    rule: str
    text: str
    names: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a person asked for, and what the file itself says about its origin.

    `grid` is the grid that the file's position embedding was learned on, `inputs` are the specs of what both networks
    are run on for a proof; `lightning`: a LightningModule wrote the file, which lies at `path`. `lora` is the adapter
    that the file is.
    """

    prefix: str = ""
    drop: tuple[str, ...] = ()
    drop_head: bool = False
    dtype: str = ""
    grid: tuple[int, int] | None = None
    unproven: bool = False
    inputs: tuple[str, ...] = ()
    lightning: bool = False
    path: str = ""
    lora: Lora | None = None


@dataclass
class PlanDraft:
    """The state that rules change. `parts` are in the order of the file; `renamed` follows names from file to result.

    `known` is the network that the parts are named after, where there is one beside the reference.
    `by_order` lists the choices that only the order of the tensors settled: they must be proven or asked for.
    `doubts` say in words what else must be proven or asked for.
    `assumed` says what was taken for granted on the way, in words.
    `allowed_missing` are tensors of the reference that may be missing, because somebody asked for it.
    """

    parts: dict[str, Part]
    reference: Expectation | None = None
    options: PlanOptions = field(default_factory=PlanOptions)
    known: Expectation | None = None
    applied: list[AppliedRule] = field(default_factory=list)
    dropped: list[DroppedTensor] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    by_order: list[tuple[str, ...]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    allowed_missing: set[str] = field(default_factory=set)
    structural: bool = False

    @property
    def expected(self) -> dict[str, ExpectedTensor]:
        """What the reference expects, by name; nothing without one."""
        return self.reference.by_name if self.reference else {}

    def missing(self) -> list[ExpectedTensor]:
        """What the reference expects and the draft does not have."""
        return [
            want
            for want in self.expected.values()
            if want.name not in self.parts and want.name not in self.allowed_missing
        ]

    def mostly_named(self) -> bool:
        """Whether most of the reference is found by name, so that what is left can be told by its name too."""
        return len(self.missing()) * 2 < len(self.expected)

    def unexpected(self) -> list[Part]:
        """What the draft has and the reference does not expect."""
        expected = self.expected
        return [part for part in self.parts.values() if part.name not in expected] if self.reference else []

    def misshapen(self) -> list[tuple[Part, ExpectedTensor]]:
        """What is there under its name, in another shape."""
        expected = self.expected
        pairs = ((part, expected.get(part.name)) for part in self.parts.values())
        return [(part, want) for part, want in pairs if want is not None and want.shape != part.shape]

    def rename(self, names: Mapping[str, str], rule: str, reason: str) -> bool:
        """Give parts other names, all at once. Nothing happens, and a trouble is noted, if two would collide."""
        moved = {old: new for old, new in names.items() if old != new}
        if not moved:
            return False
        target: dict[str, str] = {}
        for old in self.parts:
            new = moved.get(old, old)
            if new in target:
                text = f"{target[new]} and {old} would both be called {new}"
                self.problem(rule, text, (target[new], old), "take one of them with --prefix, or leave one with --drop")
                return False
            target[new] = old
        self.parts = {new: _renamed_part(self.parts[old], new, rule) for new, old in target.items()}
        self.applied.append(AppliedRule(rule, reason, len(moved), tuple(moved.items())[:EXAMPLES]))
        return True

    def make(self, made: Iterable[Part], rule: str, reason: str, used: Iterable[str] = ()) -> bool:
        """Put parts in the place of those called `used`; each stands where the first of its own stood."""
        new = list(made)
        gone = set(used)
        kept = {name: part for name, part in self.parts.items() if name not in gone}
        clash = next((part.name for part in new if part.name in kept), None)
        if clash is not None or len({part.name for part in new}) < len(new):
            self.problem(rule, f"two tensors would be called {clash or new[0].name}")
            return False
        if not new:
            return False
        before = tuple((" + ".join(part.sources[:3]) or "nothing", part.name) for part in new[:EXAMPLES])
        self.parts = self._placed([replace(part, rules=(*part.rules, rule)) for part in new], gone)
        self.applied.append(AppliedRule(rule, reason, len(new), before))
        return True

    def _placed(self, new: list[Part], gone: set[str]) -> dict[str, Part]:
        order: dict[str, Part] = {}
        made_of: dict[str, list[Part]] = {}
        for made in new:
            for source in made.sources:
                made_of.setdefault(source, []).append(made)
        for name, part in self.parts.items():
            here = [part] if name not in gone else [made for source in part.sources for made in made_of.get(source, ())]
            for each in here:
                order.setdefault(each.name, each)
        for made in new:
            order.setdefault(made.name, made)
        return order

    def drop(self, names: Iterable[str], rule: str, reason: str) -> None:
        """Leave parts out; what they were made of is listed."""
        gone = [self.parts.pop(name) for name in list(names)]
        self.dropped += [DroppedTensor(source, reason) for part in gone for source in part.sources]
        if gone:
            shown = tuple((part.sources[0] if part.sources else part.name, "") for part in gone[:EXAMPLES])
            self.applied.append(AppliedRule(rule, reason, len(gone), shown))

    def problem(self, rule: str, text: str, names: Iterable[str] = (), hint: str = "") -> None:
        """Note why something does not fit."""
        self.problems.append(Problem(rule, text, tuple(names), hint))


def _renamed_part(part: Part, name: str, rule: str) -> Part:
    return part if part.name == name else replace(part, name=name, rules=(*part.rules, rule))


class RuleStage(IntEnum):
    """When a rule runs. Within a stage rules run in the order in which they are written down."""

    REQUESTS = 1
    WRAPPERS = 2
    BUFFERS = 3
    SPELLING = 4
    SHAPES = 5
    STRUCTURE = 6
    FILLING = 7
    DTYPE = 8
    EXPLAINING = 9


KeyRule = Callable[[PlanDraft], None]
KEY_RULES: dict[str, tuple[RuleStage, KeyRule]] = {}


def key_rule(name: str, stage: RuleStage) -> Callable[[KeyRule], KeyRule]:
    """Enter a rule under its name; a second one of that name raises."""

    def enter(function: KeyRule) -> KeyRule:
        if name in KEY_RULES:
            raise ValueError(f"two rules are called {name}")
        KEY_RULES[name] = stage, function
        return function

    return enter
