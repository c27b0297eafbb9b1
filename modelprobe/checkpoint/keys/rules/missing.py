"""Rules for what a file has too much or too little of: counters, recomputed buffers, folded batch norms, adapters."""

from __future__ import annotations

import fnmatch
import shlex

from modelprobe.checkpoint.adapters.lora import describe, fitting_text
from modelprobe.checkpoint.keys.draft import Part, PlanDraft, RuleStage, key_rule
from modelprobe.checkpoint.placeholders import mostly_placeholders, where_weights_are
from modelprobe.checkpoint.records import BUFFER
from modelprobe.checkpoint.wrappers import RECOMPUTED_BUFFERS

COUNTER = "num_batches_tracked"
BATCH_NORM = ("running_mean", "running_var")
ADAPTERS = frozenset(
    ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "modules_to_save", "lora_magnitude_vector")
)


@key_rule("left out on request", RuleStage.REQUESTS)
def request(draft: PlanDraft) -> None:
    """`--drop PATTERN`, by the names of the file; and what the reference asks for by those names."""
    for pattern in draft.options.drop:
        draft.allowed_missing |= {name for name in draft.expected if _matches(name, pattern)}
        found = [name for name in draft.parts if _matches(name, pattern)]
        draft.drop(found, "left out on request", f"--drop {pattern}")


@key_rule("left out on request, by the new name", RuleStage.BUFFERS)
def request_again(draft: PlanDraft) -> None:
    """`--drop PATTERN`, by the names without wrappers."""
    for pattern in draft.options.drop:
        reason = f"--drop {pattern}"
        found = [name for name in draft.parts if _matches(name, pattern)]
        draft.drop(found, "left out on request, by the new name", reason)
        matched = found or any(dropped.reason == reason for dropped in draft.dropped)
        if not matched and not any(_matches(name, pattern) for name in draft.allowed_missing):
            draft.problem("left out on request", f"{reason} matches no tensor", (), "patterns are such as 'fc.*'")


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)


@key_rule("placeholders of ZeRO-3", RuleStage.REQUESTS)
def placeholders(draft: PlanDraft) -> None:
    """Parameters of shape [0], whose values DeepSpeed keeps in other files."""
    empty = mostly_placeholders(part.shape for part in draft.parts.values())
    if empty:
        text, hint = where_weights_are(draft.options.path, empty)
        names = [name for name, part in draft.parts.items() if part.shape == (0,)]
        draft.problem("placeholders of ZeRO-3", text, names, hint)


@key_rule("adapters", RuleStage.REQUESTS)
def adapters(draft: PlanDraft) -> None:
    """PEFT: weights beside weights. LoRA is told with its rank and whether it fits; `convert --merge` joins it."""
    lora = draft.options.lora
    found = [name for name in draft.parts if ADAPTERS & set(name.split("."))]
    if lora is not None and lora.layers:
        reference = draft.reference
        shapes = {want.name: want.shape for want in draft.expected.values()}
        fits = f"; {fitting_text(lora, shapes, reference.label)}" if reference is not None else ""
        base = reference.label if reference is not None and not reference.values else "BASE"
        command = shlex.join(["modelprobe", "convert", lora.path, "--merge", base, "-o", "merged.safetensors"])
        text = f"the file is a LoRA adapter, {describe(lora)}{fits}"
        draft.problem("adapters", text, list(draft.parts), f"`{command}` adds it to the weights of its base")
    elif found:
        text = f"{len(found):,} tensors belong to adapters of PEFT, such as {found[0]}"
        draft.problem("adapters", text, found, "merge them with peft (merge_and_unload) before this")


@key_rule("batch counters added", RuleStage.FILLING)
def counters(draft: PlanDraft) -> None:
    """`num_batches_tracked` came with torch 0.4.1: zero, where the batch norm itself is there."""
    made = []
    for want in draft.missing():
        owner, _, last = want.name.rpartition(".")
        if last == COUNTER and all(f"{owner}.{name}".lstrip(".") in draft.parts for name in BATCH_NORM):
            made.append(Part(want.name, want.shape, want.dtype, (), role=BUFFER).then("zeros"))
    draft.make(made, "batch counters added", "absent, as in files from before torch 0.4.1; they count from zero")


@key_rule("batch counters left out", RuleStage.FILLING)
def no_counters(draft: PlanDraft) -> None:
    """The file counts batches and the reference does not (frozen batch norms)."""
    unexpected = draft.unexpected()
    missing = {want.name.rpartition(".")[2] for want in draft.missing()}
    found = [part.name for part in unexpected if part.name.rpartition(".")[2] == COUNTER]
    if COUNTER not in missing:
        wanted = draft.expected
        fine = [n for n in found if f"{n.rpartition('.')[0]}.running_mean" in wanted]
        draft.drop(fine, "batch counters left out", "the reference does not count batches; outputs do not depend on it")


@key_rule("recomputed buffer left out", RuleStage.BUFFERS)
def recomputed(draft: PlanDraft) -> None:
    """Buffers that the model computes for itself and does not save."""
    absent = draft.reference.absent if draft.reference else frozenset()
    found = [p.name for p in draft.unexpected() if p.name in absent or _last(p.name) in RECOMPUTED_BUFFERS]
    draft.drop(found, "recomputed buffer left out", "the model computes this buffer when it is built (not persistent)")


@key_rule("buffer computed by the model", RuleStage.BUFFERS)
def computed(draft: PlanDraft) -> None:
    """Buffers that the model saves and the file does not: as the constructor computes them."""
    if draft.reference is None or not draft.reference.values:
        return
    made = [
        Part(want.name, want.shape, want.dtype, (), role=BUFFER).then("model")
        for want in draft.missing()
        if want.role == BUFFER and _last(want.name) in RECOMPUTED_BUFFERS
    ]
    draft.make(made, "buffer computed by the model", "not in the file; the model computes it when it is built")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


@key_rule("batch norm folded", RuleStage.EXPLAINING)
def folded(draft: PlanDraft) -> None:
    """Convolutions with a bias and no batch norm behind them: it was folded in, which cannot be undone."""
    unexpected = {part.name for part in draft.unexpected()}
    missing = [want.name for want in draft.missing()]
    lost = [name for name in missing if _last(name) == "running_var"]
    wanted = draft.expected
    biases = [name for name in unexpected if _last(name) == "bias" and f"{name[:-4]}weight" in wanted]
    if lost and len(biases) * 2 >= len(lost):
        text = f"{len(lost):,} batch norms are gone and {len(biases):,} layers have a bias instead: they were folded in"
        owners = {name.rpartition(".")[0] for name in lost}
        names = [name for name in missing if name.rpartition(".")[0] in owners]
        draft.problem(
            "batch norm folded", text, (*names, *biases), "use the file from before; folding cannot be undone"
        )


@key_rule("re-parameterised", RuleStage.EXPLAINING)
def deployed(draft: PlanDraft) -> None:
    """RepVGG, MobileOne and their like after fusing their branches."""
    found = [
        p.name for p in draft.unexpected() if {"reparam_conv", "rbr_reparam", "conv_reparam"} & set(p.name.split("."))
    ]
    if found and draft.missing():
        text = f"{len(found):,} tensors are of fused branches ({found[0]}): the file was saved for deployment"
        draft.problem("re-parameterised", text, found, "fuse the model in the same way, or use the file from before")


@key_rule("letters stripped", RuleStage.EXPLAINING)
def stripped(draft: PlanDraft) -> None:
    """`lstrip("module.")` eats letters of the names themselves."""
    open_ = {want.name.lstrip("module."): want.name for want in draft.missing()}
    found = {p.name: open_[p.name] for p in draft.unexpected() if p.name in open_ and p.name != open_[p.name]}
    if found:
        old, new = next(iter(found.items()))
        text = (
            f'{len(found):,} names have lost their first letters ({old} was {new}): that is what lstrip("module.") does'
        )
        draft.problem(
            "letters stripped", text, found, "strip the prefix from the original file: removeprefix, not lstrip"
        )
