"""The rule for another floating-point type: integers and booleans stay what they are."""

from __future__ import annotations

from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.checkpoint.keys.draft import PlanDraft, RuleStage, key_rule


@key_rule("floating-point type", RuleStage.DTYPE)
def cast(draft: PlanDraft) -> None:
    """`--dtype`: every floating tensor in one type. What would become infinite is found when values are read."""
    wanted = draft.options.dtype
    if not wanted:
        return
    moved = [part for part in draft.parts.values() if part.dtype in FLOATING_DTYPES and part.dtype != wanted]
    made = [part.then("cast", FLOATING_DTYPES.index(wanted), dtype=wanted) for part in moved]
    draft.make(made, "floating-point type", f"--dtype {wanted}", [part.name for part in moved])
