"""Explanations of tensors whose names and shapes fit, and whose numbers mean something else: they are not loaded."""

from __future__ import annotations

from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.checkpoint.keys.draft import Part, PlanDraft, RuleStage, key_rule
from modelprobe.report.units import shape

SCALES = (
    "SCB", "weight_scale", "weight_scale_inv", "weight_zero_point", "scales", "scale", "qzeros", "absmax", "quant_map",
    "weight_format", "scale_weight",
)  # fmt: skip
"""What the libraries that quantize layers keep beside a weight; bitsandbytes' names may go on (`weight.absmax`)."""


def _in_another_kind(draft: PlanDraft) -> list[Part]:
    """The parts that are no floating-point numbers where the reference has some."""
    wanted = draft.expected
    return [
        part
        for part in draft.parts.values()
        if part.name in wanted and wanted[part.name].dtype in FLOATING_DTYPES and part.dtype not in FLOATING_DTYPES
    ]


@key_rule("quantized layer", RuleStage.EXPLAINING)
def quantized_layer(draft: PlanDraft) -> None:
    """Integers or 8-bit floats that are weights only together with a scale."""
    sources = {source for part in draft.parts.values() for source in part.sources}
    there = sources | {dropped.name for dropped in draft.dropped}
    hint = "load the file with the library that quantized it, and save the dequantized weights"
    found, plain = [], []
    for part in _in_another_kind(draft):
        beside = [name for source in part.sources for name in _scales_beside(source) if name in there]
        if part.dtype.startswith(("qint", "quint")):
            found.append((part, f"{part.name} is quantized ({part.dtype})"))
        elif beside:
            found.append((part, f"{part.name} is quantized: {part.dtype}, with {beside[0]} beside it"))
        elif part.dtype.startswith(("int", "uint")):
            plain.append(part)
    if found:
        more = f", and {len(found) - 1:,} more" if len(found) > 1 else ""
        text = f"{found[0][1]}{more}: the stored numbers alone are not the weights"
        draft.problem("quantized layer", text, [part.name for part, _ in found], hint)
    if plain:
        many = "1 tensor is" if len(plain) == 1 else f"{len(plain):,} tensors are"
        draft.assumed.append(
            f"{many} {plain[0].dtype} where the model has {draft.expected[plain[0].name].dtype}, such as "
            f"{plain[0].name}: the integers are taken as the weights, without a scale"
        )


def _scales_beside(source: str) -> list[str]:
    owner, dot, _ = source.rpartition(".")
    return [f"{start}{scale}" for start in (f"{owner}{dot}", f"{source}.", f"{source}_") for scale in SCALES]


@key_rule("complex numbers", RuleStage.EXPLAINING)
def complex_numbers(draft: PlanDraft) -> None:
    """Torch loads the real parts of complex numbers into a real parameter."""
    found = [part for part in _in_another_kind(draft) if part.dtype.startswith("complex")]
    if found:
        many = "1 tensor is" if len(found) == 1 else f"{len(found):,} tensors are"
        text = f"{many} complex where the model is not, such as {found[0].name}: the imaginary parts would be lost"
        hint = "save what the model needs of them: torch.view_as_real, or .real"
        draft.problem("complex numbers", text, [part.name for part in found], hint)


@key_rule("transposed", RuleStage.EXPLAINING)
def transposed(draft: PlanDraft) -> None:
    """Weights of linear layers as inputs x outputs; the square ones among them would fit, and be wrong."""
    found = [(p, w) for p, w in draft.misshapen() if len(p.shape) == 2 and p.shape == w.shape[::-1]]
    if found:
        part, want = found[0]
        square = [p.name for p in draft.parts.values() if len(p.shape) == 2 and p.shape[0] == p.shape[1]]
        also = f"; {square[0]}, which is square, may be too" if square else ""
        text = f"{part.name} is transposed: {shape(part.shape)} in the file, {shape(want.shape)} expected{also}"
        draft.problem(
            "transposed", text, [p.name for p, _ in found], "transpose the weights of linear layers with .T first"
        )
