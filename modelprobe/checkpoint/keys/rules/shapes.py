"""Rules that change values: attention fused or split, positions resized, first layers, heads, the floating type."""

from __future__ import annotations

import math
from dataclasses import replace

from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.checkpoint.keys.draft import Part, PlanDraft, RuleStage, key_rule
from modelprobe.checkpoint.keys.reference import ExpectedTensor, is_position

TRIPLES = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q", "k", "v"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
)
"""What the three projections of attention are called when they are apart."""

FUSED_NAMES = ("qkv", "in_proj", "qkv_proj", "to_qkv", "Wqkv", "c_attn", "query_key_value")
"""What they are called in one; nn.MultiheadAttention has `in_proj_weight` instead of `in_proj.weight`."""

HEADS = ("fc", "head", "classifier", "heads", "last_linear", "output", "linear")
"""What the last layer of a classifier is called."""


def fused_names(stem: str, leaf: str) -> list[str]:
    """How the fused projections below `stem` may be called."""
    names = [f"{stem}{fused}.{leaf}" for fused in FUSED_NAMES]
    return [*names, f"{stem}in_proj_{leaf}"]


@key_rule("query, key and value fused", RuleStage.SHAPES)
def fuse_projections(draft: PlanDraft) -> None:
    """Three projections become one, query first."""
    open_ = {want.name: want for want in draft.missing()}
    made, used = [], []
    for part in draft.unexpected():
        for triple in TRIPLES:
            for leaf in ("weight", "bias"):
                if part.name.endswith(f"{triple[0]}.{leaf}") and _bounded(part.name, f"{triple[0]}.{leaf}"):
                    stem = part.name[: -len(f"{triple[0]}.{leaf}")]
                    three = [draft.parts.get(f"{stem}{name}.{leaf}") for name in triple]
                    found = _fused(stem, leaf, three, open_)
                    if found is not None:
                        made.append(found)
                        used += [each.name for each in three if each is not None]
    draft.make(made, "query, key and value fused", "the reference keeps the three projections in one tensor", used)


def _bounded(name: str, end: str) -> bool:
    """Whether `end` begins at a segment."""
    return len(name) == len(end) or name[-len(end) - 1] == "."


def _fused(stem: str, leaf: str, three: list[Part | None], open_: dict[str, ExpectedTensor]) -> Part | None:
    parts = [part for part in three if part is not None and not part.steps]
    if len(parts) < 3:
        return None
    rows = sum(part.shape[0] for part in parts)
    shape = (rows, *parts[0].shape[1:])
    if any(part.shape[1:] != shape[1:] for part in parts):
        return None
    for name in fused_names(stem, leaf):
        if name in open_ and open_[name].shape == shape:
            sources = tuple(source for part in parts for source in part.sources)
            return replace(parts[0], name=name, sources=sources, shape=shape).then("join")
    return None


@key_rule("query, key and value split", RuleStage.SHAPES)
def split_projection(draft: PlanDraft) -> None:
    """One projection becomes three, query first; only where the three have as many rows each."""
    open_ = {want.name: want for want in draft.missing()}
    wanted = set(draft.expected)
    made, used = [], []
    for part in [part for part in draft.unexpected() if part.shape and part.shape[0] % 3 == 0 and not part.steps]:
        stem, leaf = _fused_stem(part.name)
        third = (part.shape[0] // 3, *part.shape[1:])
        for triple in TRIPLES if leaf else ():
            names = [f"{stem}{name}.{leaf}" for name in triple]
            if all(name in open_ and open_[name].shape == third for name in names):
                cut = [replace(part, name=name).then("third", i, shape=third) for i, name in enumerate(names)]
                made += cut
                used.append(part.name)
                wanted -= set(names)
    draft.make(made, "query, key and value split", "the reference keeps the three projections apart", used)


def _fused_stem(name: str) -> tuple[str, str]:
    """What stands before a fused projection, and its leaf."""
    for leaf in ("weight", "bias"):
        for end in (*(f"{fused}.{leaf}" for fused in FUSED_NAMES), f"in_proj_{leaf}"):
            if name.endswith(end) and _bounded(name, end):
                return name[: -len(end)], leaf
    return "", ""


@key_rule("position embedding resized", RuleStage.SHAPES)
def positions(draft: PlanDraft) -> None:
    """A position embedding of another grid: its grid part resized as timm does, the tokens before it kept."""
    reference = draft.reference
    for part, want in draft.misshapen() if draft.mostly_named() else ():
        if not is_position(part.name) or len(part.shape) != 3 or len(want.shape) != 3 or part.shape[2] != want.shape[2]:
            continue
        grid = reference.grids.get(want.name) if reference else None
        if grid is None:
            text = f"{part.name} has {part.shape[1]} positions, {want.shape[1]} are expected"
            draft.problem(
                "position embedding resized", text, (part.name,), "name a model with --arch: its grid is needed"
            )
            continue
        _resize(draft, part, want, grid)


def _resize(draft: PlanDraft, part: Part, want: ExpectedTensor, grid: tuple[int, int]) -> None:
    prefix = want.shape[1] - grid[0] * grid[1]
    cells = part.shape[1] - prefix
    side = math.isqrt(max(cells, 0))
    given = draft.options.grid
    square = (side, side) if side * side == cells and grid[0] == grid[1] else None
    old = given or square
    if prefix < 0 or old is None or old[0] * old[1] != cells:
        said = f"{given[0]}x{given[1]} are {given[0] * given[1]}" if given else "that is no square grid"
        text = f"{part.name} has {cells} positions besides {max(prefix, 0)} tokens: {said}"
        hint = "--grid ROWSxCOLUMNS says which grid it was learned on"
        draft.problem("position embedding resized", text, (part.name,), hint)
        return
    reason = f"from a grid of {old[0]}x{old[1]} to {grid[0]}x{grid[1]}, bicubic, antialiased, as timm does"
    made = part.then("positions", prefix, *old, *grid, shape=want.shape)
    if draft.make([made], "position embedding resized", reason, [part.name]) and given is None:
        draft.assumed.append(f"{part.name} was learned on a square grid, {old[0]}x{old[1]} (--grid says otherwise)")


@key_rule("first convolution adapted", RuleStage.SHAPES)
def channels(draft: PlanDraft) -> None:
    """The first convolution for another number of input channels: summed for one, repeated and scaled otherwise."""
    first = next((want for want in draft.expected.values() if len(want.shape) in (4, 5)), None)
    for part, want in draft.misshapen() if draft.mostly_named() else ():
        if first is None or want.name != first.name or len(part.shape) != len(want.shape) or part.steps:
            continue
        same = part.shape[0] == want.shape[0] and part.shape[2:] == want.shape[2:]
        if not same or part.shape[1] != 3:
            continue
        made = part.then("channels", want.shape[1], shape=want.shape)
        how = "summed" if want.shape[1] == 1 else f"repeated and scaled by 3/{want.shape[1]}"
        reason = f"from 3 input channels to {want.shape[1]}: {how}, as timm does"
        draft.make([made], "first convolution adapted", reason, [part.name])


@key_rule("head of other classes", RuleStage.SHAPES)
def head(draft: PlanDraft) -> None:
    """A last layer for another number of classes: its rows are never invented, only left out when asked."""
    pairs = [(p, w) for p, w in draft.misshapen() if _is_head(draft, p, w)]
    if not pairs or not draft.mostly_named():
        return
    part, want = pairs[0]
    text = f"the head {part.name.rpartition('.')[0]} has {part.shape[0]} classes, {want.shape[0]} are expected"
    if draft.options.drop_head:
        draft.allowed_missing |= {want.name for _, want in pairs}
        draft.drop([p.name for p, _ in pairs], "head of other classes", f"{text}: left out, as --drop-head asks")
    else:
        names = tuple(p.name for p, _ in pairs)
        draft.problem("head of other classes", text, names, "--drop-head leaves it out; it must then be trained anew")


def _is_head(draft: PlanDraft, part: Part, want: ExpectedTensor) -> bool:
    """Another first dimension alone, in the last layer by order or by its name."""
    if part.shape in ((), (0,)) or part.shape[1:] != want.shape[1:] or len(part.shape) > 4:
        return False
    owners = [name.rpartition(".")[0] for name in draft.expected]
    owner = part.name.rpartition(".")[0]
    named = any(segment in HEADS or segment.endswith("_head") for segment in owner.split("."))
    return owner == (owners[-1] if owners else "") or named


@key_rule("floating-point type", RuleStage.DTYPE)
def cast(draft: PlanDraft) -> None:
    """`--dtype`: every floating tensor in one type. What would become infinite is found when values are read."""
    wanted = draft.options.dtype
    if not wanted:
        return
    moved = [part for part in draft.parts.values() if part.dtype in FLOATING_DTYPES and part.dtype != wanted]
    made = [part.then("cast", FLOATING_DTYPES.index(wanted), dtype=wanted) for part in moved]
    others = [part for part in draft.parts.values() if part.dtype.startswith(("float8", "float4", "float6", "complex"))]
    if others:
        many = "1 tensor stays" if len(others) == 1 else f"{len(others):,} tensors stay"
        kept = f"{many} as in the file, such as {others[0].name} ({others[0].dtype})"
        draft.assumed.append(f"{kept}: --dtype converts float64, float32, float16 and bfloat16 alone")
    draft.make(made, "floating-point type", f"--dtype {wanted}", [part.name for part in moved])
