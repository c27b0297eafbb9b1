"""Rules that take wrappers out of names: whole segments, for all names at once, never a part of a word."""

from __future__ import annotations

from collections import Counter

from modelprobe.checkpoint.keys.draft import PlanDraft, RuleStage, key_rule
from modelprobe.checkpoint.keys.name_tree import laid_over, leading, nodes, tree, without
from modelprobe.checkpoint.wrappers import CERTAIN_WRAPPERS

COUNTERS = frozenset(("n_averaged", "num_updates", "decay", "steps", "initted", "step"))
"""What averaging wrappers keep beside the weights: numbers, not weights."""

ALONE = {"module": "DataParallel and its like put it before every name"}
"""Leading segments that are taken for a wrapper's also where no reference says so."""

LIGHTNING = ("model", "net", "network", "backbone", "module")
"""What the attribute that holds the network is usually called in a LightningModule."""

PREFERRED = (
    ("encoder_q", "encoder_k", "MoCo trains the query encoder; the key encoder is its average"),
    ("base_encoder", "momentum_encoder", "MoCo v3 trains the base encoder; the momentum encoder is its average"),
    ("teacher", "student", "DINO keeps its result in the teacher"),
    ("online_encoder", "target_encoder", "BYOL trains the online encoder; the target is its average"),
    ("model", "model_ema", "the raw weights; the averaged ones are --prefix model_ema"),
    ("model", "ema_model", "the raw weights; the averaged ones are --prefix ema_model"),
    ("model", "ema", "the raw weights; the averaged ones are --prefix ema"),
)
"""Of two networks side by side: which is taken, which is left, and why."""

MIN_SHARE = 0.5
"""The share of the reference, or of the file, of which a prefix must hold more to be worth a look."""

CANDIDATE_SHARE = 0.75
"""A network that fits as well as this, measured by the best, could be the one that is meant."""


@key_rule("--prefix", RuleStage.REQUESTS)
def asked(draft: PlanDraft) -> None:
    """`--prefix`: only what stands under it, without it."""
    prefix = draft.options.prefix.strip(".")
    if not prefix:
        return
    inside = [name for name in draft.parts if name.startswith(f"{prefix}.")]
    if not inside:
        draft.problem("--prefix", f"no tensor stands under {prefix}", (), "`modelprobe summary` shows the names")
        return
    draft.drop([name for name in draft.parts if name not in set(inside)], "--prefix", f"not under {prefix}")
    names = {name: name[len(prefix) + 1 :] for name in inside}
    draft.rename(names, "--prefix", f"--prefix {prefix}: stripped")


@key_rule("averaging counter", RuleStage.WRAPPERS)
def counter(draft: PlanDraft) -> None:
    """`n_averaged` of AveragedModel and its like: a number beside the weights."""
    wanted = draft.expected
    found = [n for n, part in draft.parts.items() if n in COUNTERS and n not in wanted and part.shape in ((), (1,))]
    if found and len(found) < len(draft.parts):
        draft.drop(found, "averaging counter", "a counter of the averaging wrapper, no weight")


@key_rule("wrapper segment", RuleStage.WRAPPERS)
def segments(draft: PlanDraft) -> None:
    """`_orig_mod`, `_fsdp_wrapped_module`, `_checkpoint_wrapped_module`: gone wherever they stand."""
    kept = {segment for want in draft.expected for segment in want.split(".")[:-1]}
    for segment, source in CERTAIN_WRAPPERS.items():
        if segment not in kept:
            names = {name: without(name, (segment,)) for name in draft.parts}
            draft.rename(names, f"{segment} of {source}", f"only {source} puts the segment {segment} into names")


@key_rule("leading wrapper", RuleStage.WRAPPERS)
def front(draft: PlanDraft) -> None:
    """Without a reference: `module.` in front of every name, as often as it stands there."""
    if draft.reference is not None:
        return
    while (segment := leading(draft.parts)) and _strippable(draft, segment):
        reason = ALONE.get(segment, "the LightningModule holds the network under it")
        if not draft.rename({n: n.split(".", 1)[1] for n in draft.parts}, f"`{segment}.` prefix", reason):
            return
    for segment in ("module", *(LIGHTNING if draft.options.lightning else ())):
        inside = [name for name in draft.parts if name.startswith(f"{segment}.")]
        if inside and not leading(draft.parts) and (segment != "module" or len(inside) * 2 > len(draft.parts)):
            _partly(draft, segment, inside)
            return


def _strippable(draft: PlanDraft, segment: str) -> bool:
    return segment in ALONE or (draft.options.lightning and segment in LIGHTNING)


def _partly(draft: PlanDraft, segment: str, inside: list[str]) -> None:
    others = [name for name in draft.parts if not name.startswith(f"{segment}.")]
    text = f"{len(inside):,} names begin with {segment}. and {len(others):,} do not ({inside[0]}; {others[0]})"
    draft.problem("leading wrapper", text, others, f"--arch MODEL decides; --prefix {segment} takes these alone")


@key_rule("wrapper before the reference's names", RuleStage.WRAPPERS)
def fit_to_reference(draft: PlanDraft) -> None:
    """With a reference: the prefixes, and the wrappers inside names, that the reference does not have."""
    if draft.reference is None or not draft.parts:
        return
    found = _best(draft)
    if found is None:
        return
    path, names, reason = found
    prefix = ".".join(path)
    outside = [name for name in draft.parts if name not in names]
    wanted, taken = draft.expected, set(names.values())
    twins = [name for name in outside if name in taken and name in wanted]
    if twins:
        text = f"{len(twins):,} tensors beside {prefix} have the names that are expected too, such as {twins[0]}"
        hint = f"--prefix {prefix} takes the others, --drop '{prefix}.*' leaves them out"
        draft.problem("which network", text, twins, hint)
        return
    if not reason and _second(draft, list(names), outside):
        text = f"{len(outside):,} tensors beside {prefix} have the shapes of that network too, such as {outside[0]}"
        draft.problem("which network", text, outside, f"--prefix {prefix} takes those under it")
        return
    if outside and not any(name in wanted for name in outside):
        draft.drop(outside, "beside the network", f"not under {prefix}, where the network is{reason}")
    stripped = {name: new for name, new in names.items() if name in draft.parts}
    title = _rule_title(prefix, stripped)
    draft.rename(stripped, title, _because(prefix, title) + reason)


def _second(draft: PlanDraft, inside: list[str], outside: list[str]) -> bool:
    """Whether what stands beside the network could be another one like it, under names of its own."""
    shapes = Counter(draft.parts[name].shape for name in inside)
    others = Counter(draft.parts[name].shape for name in outside)
    return len(inside) > 1 and sum((shapes & others).values()) >= CANDIDATE_SHARE * len(inside)


def _because(prefix: str, title: str) -> str:
    if prefix:
        return f"the reference has no {prefix}. before its names"
    if title == "`module.` prefix":
        return ALONE["module"]
    return "the reference has other segments there"


def _rule_title(prefix: str, names: dict[str, str]) -> str:
    if prefix:
        return f"`{prefix}.` prefix"
    if all(old == f"module.{new}" for old, new in names.items()):
        return "`module.` prefix"
    moved = [(old, new) for old, new in names.items() if old != new]
    if all(new.endswith(f".{old}") for old, new in moved):
        return "prefix added"
    return "prefix changed" if all(old.count(".") <= new.count(".") for old, new in moved) else "inner `module.`"


def _best(draft: PlanDraft) -> tuple[tuple[str, ...], dict[str, str], str] | None:
    """The prefix under which most of the reference is found, the new names under it, and why it was taken."""
    root = tree(draft.parts)
    wanted_root = tree(draft.expected)
    scored = []
    least = int(MIN_SHARE * min(root.count, wanted_root.count)) + 1
    for path, node in nodes(root, least):
        for above, inner in nodes(wanted_root, least):
            if (path and above) and path[-1] == above[-1]:
                continue  # the same as without that segment on either side
            names = laid_over(node, inner, "".join(f"{part}." for part in above))
            scored.append((_score(draft, names), -len(path), -len(above), path, names))
    if not scored:
        return None
    top = max(entry[:3] for entry in scored)
    best = next(entry for entry in scored if entry[:3] == top)
    if best[0] == 0 or best[0] < least or (not best[3] and all(old == new for old, new in best[4].items())):
        return None
    candidates = [e for e in scored if _disjoint(e[3], best[3]) and e[0] >= CANDIDATE_SHARE * best[0]]
    if not candidates:
        return best[3], best[4], ""
    return _preferred(draft, best, candidates)


Scored = tuple[int, int, int, tuple[str, ...], dict[str, str]]


def _preferred(
    draft: PlanDraft, best: Scored, candidates: list[Scored]
) -> tuple[tuple[str, ...], dict[str, str], str] | None:
    """Of several networks that fit, the one that a known habit names; None, and a trouble, when none does."""
    every = [best, *candidates]
    tops = {entry[3]: entry for entry in every}
    for first, second, reason in PREFERRED:
        taken = [path for path in tops if first in path]
        left = [path for path in tops if second in path]
        if taken and left and len(taken) + len(left) == len(tops):
            chosen = max((tops[path] for path in taken), key=lambda entry: entry[:3])
            return chosen[3], chosen[4], f"; {reason}"
    shown = sorted({".".join(path) for path in tops})
    text = f"{len(shown)} networks in the file fit alike: {', '.join(shown[:4])}"
    draft.problem("which network", text, (), f"choose with --prefix {shown[0]}")
    return None


def _disjoint(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether neither prefix is a beginning of the other."""
    common = min(len(one), len(other))
    return one[:common] != other[:common]


def _score(draft: PlanDraft, names: dict[str, str]) -> int:
    """How many tensors of the reference these names hit, with the right shape; 0 if two hit the same."""
    wanted = draft.expected
    if max(Counter(names.values()).values(), default=0) > 1:
        return 0
    hits = ((wanted.get(new), draft.parts[old]) for old, new in names.items())
    return sum(1 for want, part in hits if want is not None and want.shape == part.shape)
