"""Loading the weights of a file into a model: read safely, repaired in memory, with a record of the changes."""

from __future__ import annotations

import os
import shlex
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelprobe.checkpoint.branches import chosen_branch
from modelprobe.checkpoint.keys.apply import value_of
from modelprobe.checkpoint.keys.draft import AppliedRule, Part, PlanOptions, RuleStage
from modelprobe.checkpoint.keys.plan import KeyPlan, entries_by_name, plan_keys, replan
from modelprobe.checkpoint.keys.reference import Expectation, reference_of_checkpoint, reference_of_model, speaks_of
from modelprobe.checkpoint.keys.rewrite import versions_of
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import Branch, Checkpoint
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.errors import BadInput, CheckFailed, one_line
from modelprobe.model.user_code.arguments import settings_texts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modelprobe.model.target import Target
    from modelprobe.model.weights.equivalence import OutputComparison

UNNAMED = (RuleStage.STRUCTURE, RuleStage.FILLING, RuleStage.DTYPE)
"""The stages that do not look at names: what leads from one library's network to another's."""


@dataclass(frozen=True)
class Fit:
    """How a file fits what it is wanted for. `plan` makes it fit; `plain` is the reference of names as they are.

    `equivalence` compares the outputs of the file's own network with those of the wanted one, where that was needed.
    """

    found: Checkpoint
    plan: KeyPlan
    reference: Expectation | None = None
    equivalence: OutputComparison | None = None
    target: Target | None = None
    origin: Target | None = None
    first: KeyPlan | None = None
    """The plan that leads to the file's own network, `origin`, where names of another library were met."""
    inputs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    """The options that were given, but for the file and `--arch`, for the commands that hints name."""


def fit(
    found: Checkpoint,
    *,
    target: Target | None = None,
    reference: Expectation | None = None,
    branch: str | None = None,
    origin: Target | None = None,
    options: PlanOptions | None = None,
) -> Fit:
    """Plan how the tensors of a file become those of `target`, or of a `reference`, or lose their wrappers.

    `origin` is the network that the file was saved from, where a person says so. Nothing is written; values are drawn
    at random, and both networks run, only when the order of tensors alone would settle an assignment.
    """
    fitted = _planned_fit(found, target, reference, branch, origin, options or PlanOptions())
    if not fitted.plan.complete or fitted.reference is None:
        return fitted
    untied = _different_in_file(found, fitted.plan, fitted.reference)
    alike = _look_alikes(fitted)
    return replace(fitted, plan=replace(fitted.plan, untied=untied, assumed=(*fitted.plan.assumed, *alike)))


def _look_alikes(fitted: Fit) -> tuple[str, ...]:
    """That the file may be of another network with the names and shapes of the one that it was taken for."""
    from modelprobe.model.weights.look_alikes import look_alike_text

    network = fitted.origin or (None if fitted.plan.structural else fitted.target)
    text = look_alike_text(fitted.found, network) if network is not None else ""
    return (text,) if text else ()


def _different_in_file(found: Checkpoint, plan: KeyPlan, reference: Expectation) -> tuple[str, ...]:
    """What the reference ties and the file holds with different values, in words: loading keeps the last one alone."""
    parts = {part.name: part for part in plan.parts}
    tied = [w for w in reference.expected if w.same and w.name in parts and w.same in parts]
    apart = [w for w in tied if not _surely_equal(found, plan, parts[w.name], parts[w.same])]
    if not apart:
        return ()
    said = []
    with fetching(found, plan.branch) as fetch:
        for want in apart:
            names = f"{want.same} and {want.name} are one tensor in {reference.label}"
            try:
                first, last = (value_of(parts[name], fetch) for name in (want.same, want.name))
                differ = int(((first != last) & ~((first != first) & (last != last))).sum())
            except (BadInput, RuntimeError) as error:
                said.append(f"{names}, and whether they are equal in the file could not be read: {one_line(error)}")
                continue
            if differ:
                said.append(
                    f"{names}, and {differ:,} of their {first.numel():,} values differ in the file: loading keeps "
                    f"those of {want.name} and loses the others"
                )
    return tuple(said)


def _surely_equal(found: Checkpoint, plan: KeyPlan, part: Part, other: Part) -> bool:
    """Whether two parts are made in one way of one tensor, or of two whose bytes have one checksum."""
    if part.sources == other.sources and part.steps == other.steps:
        return True
    if part.steps or other.steps or len(part.sources) != 1 or len(other.sources) != 1:
        return False
    entries = entries_by_name(found, plan.branch)
    a, b = entries[part.sources[0]], entries[other.sources[0]]
    mine, theirs = found.storages.get(a.storage), found.storages.get(b.storage)
    if a.identity == b.identity or mine is None or theirs is None or mine.crc is None:
        return a.identity == b.identity
    return (a.identity[1:], mine.length, mine.crc) == (b.identity[1:], theirs.length, theirs.crc)


def _planned_fit(
    found: Checkpoint, target: Target | None, reference: Expectation | None, branch: str | None,
    origin: Target | None, options: PlanOptions,
) -> Fit:  # fmt: skip
    if target is not None:
        reference = reference_of_model(target.build().module, target.spec)
    plan = planned(found, branch, reference, options)
    if plan.good and not plan.structural and origin is None:
        return Fit(found, plan, reference, None, target)
    if target is None or reference is None:
        return Fit(found, plan, reference)
    plain = Fit(found, plan, reference, None, target)
    if origin is None and speaks_of(entries_by_name(found, plan.branch), reference):
        return plain
    return _crossed(plain, target, reference, origin, options) or plain


def planned(found: Checkpoint, branch: str | None, reference: Expectation | None, options: PlanOptions) -> KeyPlan:
    """The plan for the branch asked for or chosen; for the only other one that fits, where that one does not."""
    chosen = chosen_branch(found, branch)
    plan = plan_keys(found, chosen, reference, options)
    if plan.complete or branch is not None or reference is None:
        return plan
    others = [plan_keys(found, other, reference, options) for other in _unused_entries(found, chosen)]
    fitting = [other for other in others if other.complete and not other.structural]
    if len(fitting) != 1:
        return plan
    reason = f"{fitting[0].branch.name or 'the root'} fits, {chosen.name or 'the root'} does not"
    return replace(fitting[0], applied=(AppliedRule("another branch", reason, 0), *fitting[0].applied))


def _unused_entries(found: Checkpoint, chosen: Branch) -> list[Branch]:
    return [other for other in found.branches if other.path != chosen.path]


def _crossed(
    plain: Fit, target: Target, reference: Expectation, origin: Target | None, options: PlanOptions
) -> Fit | None:
    """By way of the network that the file was saved from, proven by equal outputs; None when none is known.

    The first that is proven wins. Without any, the plan with the proof that failed tells why.
    """
    from modelprobe.model.weights.identify import own_network, own_networks

    found, branch = plain.found, plain.plan.branch
    if origin is not None:
        only = own_network(found, branch, origin, options)
        if only is None:
            look = shlex.join(["modelprobe", "keys", found.path, "--arch", origin.spec])
            raise BadInput(f"{found.path} is not saved from {origin.spec}", f"`{look}` says why")
        known = iter([only])
    else:
        known = own_networks(found, branch, target, options)
    failed: Fit | None = None
    for source, own, first in known:
        for second in _assignments(first, (source, own), (target, reference), options):
            equivalence = _proof(source, target, first, second, options.inputs)
            proven = equivalence.equal and not equivalence.insensitive
            second = replace(second, proven=proven, by_order=second.by_order or (("outputs",),))
            this = Fit(found, second, reference, equivalence, target, source, first, options.inputs)
            if proven:
                return this
            failed = failed or this
    return failed


Network = tuple["Target", Expectation]


def _assignments(first: KeyPlan, own: Network, other: Network, options: PlanOptions) -> Iterator[KeyPlan]:
    """The ways from one network to another that are worth a proof: layers in the order in which they were registered,
    and, where that proves nothing, in the order in which they are used.
    """
    seen: set[tuple[Part, ...]] = set()
    for used in (False, True):
        mine, theirs = (_as_used(own, options), _as_used(other, options)) if used else (own[1], other[1])
        for stages in (UNNAMED, tuple(RuleStage)):
            second = replan(first, mine, theirs, options, stages)
            if second.complete and second.parts not in seen:
                seen.add(second.parts)
                yield second


def _as_used(network: Network, options: PlanOptions) -> Expectation:
    from modelprobe.model.weights.equivalence import order_of_use

    target, reference = network
    return reference.in_order(order_of_use(target, options.inputs))


def _proof(source: Target, target: Target, first: KeyPlan, second: KeyPlan, inputs: Sequence[str]) -> OutputComparison:
    """The outputs of both networks compared, with the plan from the one to the other."""
    from modelprobe.model.weights.equivalence import compare_random

    names = {source_name: part.name for part in first.parts for source_name in part.sources if len(part.sources) == 1}
    return compare_random(source, target, second.parts, names, inputs)


TensorFetch = Callable[[str], "Tensor"]


@contextmanager
def fetching(found: Checkpoint, branch: Branch) -> Iterator[TensorFetch]:
    """A function from the name of a tensor in a branch to its values. Damaged tensors raise BadInput when fetched."""
    entries = entries_by_name(found, branch)
    with TensorReader(found) as reader:
        yield lambda name: reader.load(entries[name])


def computed_by(model: nn.Module) -> TensorFetch:
    """A function from the name of a buffer to what the model itself computed for it."""

    def fetch(name: str) -> Tensor:
        found: Tensor = model.state_dict()[name]
        if found.is_meta:
            raise BadInput(
                f"{name} is not in the file, and the model is on meta and has no values", "build it on the CPU"
            )
        return found.detach().clone()

    return fetch


def load_state_dict_for(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    target: Target | None = None,
    branch: str | None = None,
    origin: Target | None = None,
    options: PlanOptions | None = None,
) -> tuple[dict[str, Tensor], KeyPlan]:
    """The tensors of a file as `model.load_state_dict(…, strict=True)` takes them, and the plan that led to them.

    Nothing in the file is executed and the model is not changed. `target` is how the model was named: with it, names of
    another library can be proven by equal outputs. Raises CheckFailed, with the first reason, when it does not fit.
    """
    found = open_checkpoint(path)
    reference = reference_of_model(model, target.spec if target else type(model).__name__)
    if target is not None:
        fitted = fit(found, target=target, branch=branch, origin=origin, options=options)
    else:
        fitted = fit(found, reference=reference, branch=branch, options=options)
    refuse_unless_good(fitted)
    plan = fitted.plan
    model_values = computed_by(model)
    with fetching(found, plan.branch) as fetch:
        state = OrderedDict(
            (part.name, _cast_to_model(value_of(part, fetch, model_values), part)) for part in plan.parts
        )
    return _versioned(state, found, plan, reference), plan


def _versioned(
    state: OrderedDict[str, Tensor], found: Checkpoint, plan: KeyPlan, reference: Expectation | None
) -> OrderedDict[str, Tensor]:
    """With the versions of the modules: some (torchvision's MNASNet) refuse to be loaded without."""
    versions = versions_of(found, plan, reference.versions if reference else None)
    if versions is not None:
        state._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    return state


def _cast_to_model(tensor: Tensor, part: Part) -> Tensor:
    import torch

    return tensor.to(getattr(torch, part.dtype))


def refuse_unless_good(fitted: Fit) -> None:
    """Raise CheckFailed with the first reason why a plan may not be carried out."""
    reasons = refusals(fitted)
    if reasons:
        text, hint = reasons[0]
        plan = fitted.plan
        raise CheckFailed(f"{plan.path} does not fit {plan.reference or 'as it is'}: {text}", hint)


def refusals(fitted: Fit) -> Sequence[tuple[str, str]]:
    """Why a plan may not be carried out, and what would help; nothing when it may."""
    plan = fitted.plan
    reference = ["--arch", plan.reference] if plan.reference else []
    keys = shlex.join(["modelprobe", "keys", plan.path, *reference, *fitted.arguments])
    found = [(problem.text, problem.hint) for problem in plan.problems]
    for what, names in (
        ("missing", [want.name for want in plan.missing]),
        ("unexpected", [part.name for part in plan.unexpected]),
        ("of another shape", [part.name for part, _ in plan.misshapen]),
    ):
        if names and not plan.problems:
            many = "1 tensor is" if len(names) == 1 else f"{len(names):,} tensors are"
            found.append((f"{many} {what}, such as {names[0]}", f"`{keys}` lists them"))
    if not found and not plan.certain:
        compared = fitted.equivalence is not None and not fitted.equivalence.reason
        found.append((unproven(fitted), UNEQUAL if compared else UNPROVEN))
    return found


def keys_command(path: str, target: Target) -> str:
    """The command that says how a file fits a network, with the settings of the network."""
    settings = [word for text in settings_texts(target.given) for word in ("--set", text)]
    return shlex.join(["modelprobe", "keys", path, "--arch", target.spec, *settings])


UNPROVEN = "--from MODEL names the file's own network, to compare outputs; --unproven accepts it"
UNEQUAL = "--unproven takes the tensors all the same, in the order in which they stand"


def unproven(fitted: Fit) -> str:
    """What the assignment rests on, and why that was not enough."""
    found = fitted.equivalence
    if found is None and fitted.plan.doubts:
        return fitted.plan.doubts[0]
    if found is None:
        count = sum(len(group) for group in fitted.plan.by_order)
        many = f"{count:,} tensors were" if count > 1 else "tensors were"
        return f"{many} assigned by their order alone, and outputs could not be compared"
    if found.reason:
        return f"outputs could not be compared with those of {found.source}: {found.reason}"
    if found.insensitive:
        more = len(found.insensitive) - 1
        return f"the outputs do not depend on {found.insensitive[0]} and {more:,} more of its shape"
    why = f": {found.known_difference}" if found.known_difference else ""
    return f"with the same weights the outputs of {found.source} and {found.target} differ by {found.relative:.1e}{why}"


def load_strictly(target: Target, plan: KeyPlan, found: Checkpoint) -> nn.Module:
    """A CPU build of the target with the repaired weights loaded, strict=True; the proof that the result fits.

    Raises CheckFailed when torch refuses them. Tensors that somebody asked to leave out keep their random values.
    """
    from modelprobe.model.weights.equivalence import fresh

    model = fresh(target)
    values = computed_by(model)
    with fetching(found, plan.branch) as fetch:
        state = OrderedDict((part.name, value_of(part, fetch, values)) for part in plan.parts)
    own = model.state_dict()
    state.update({name: own[name] for name in plan.allowed_missing if name in own and name not in state})
    try:
        model.load_state_dict(_versioned(state, found, plan, reference_of_model(model, target.spec)), strict=True)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:  # a class may load in its own way
        raise CheckFailed(f"the repaired weights do not load into {target.spec}: {one_line(error)}") from error
    return model


__all__ = ["Fit", "fit", "load_state_dict_for", "reference_of_checkpoint"]
