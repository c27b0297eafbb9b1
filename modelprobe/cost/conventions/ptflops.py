"""How ptflops counts by its default `pytorch` backend: modules by exact class, and functions that it has replaced.

Facts: ptflops 0.7.5, `ptflops/pytorch_ops.py`, `pytorch_engine.py`. What nn.ReLU, nn.GELU and the pooling classes
compute passes both counters, as those modules call the functions, and counts twice. A class with a rule hides what is
inside it: the linear layers of timm's Attention and of nn.MultiheadAttention are not counted on their own. Operators
spelled `*`, `+` and `@`, and fused attention, are not seen. Modules are divided by the batch, functions are not.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelprobe.cost.conventions.convention import Convention, CountedItem, ToolCount
from modelprobe.cost.conventions.functionals import function_cost
from modelprobe.cost.conventions.lowering import is_packed
from modelprobe.cost.conventions.modules import ModuleRules, Seen, rule_of, seen, torch_nn, visits
from modelprobe.tracing.records import OpCall, Trace, numel


def _convolution(call: Seen) -> float:
    """Products, and 1 per output element for a bias."""
    op = max(call.ops, key=lambda op: op.macs, default=None)
    return op.macs + (numel(call.output) if len(op.inputs) > 2 else 0) if op is not None else 0


def _linear(call: Seen) -> float:
    op = call.operator("aten.linear")
    biased = op is not None and len(op.inputs) > 2
    return (call.input[-1] + biased) * call.output[-1] * numel(call.input[:-1])


def _affine_norm(call: Seen) -> float:
    """1 per element, 2 with an affine pair; what LayerNorm has is called otherwise and is not asked for."""
    return numel(call.input) * (2 if ", affine=True" in call.node.extra else 1)


def _upsample(call: Seen) -> float:
    return numel(call.output[1:])


_FIRST_ARGUMENT = "input[0]"
"""How the ledger calls the first argument by place."""

_STATE = {"RNN": 1, "GRU": 7, "LSTM": 10}


def _recurrent_layer(call: Seen) -> float:
    """Forward weights and biases of every layer and a few sums of the state, per step; twice for both directions.

    Projections are ignored. On a packed sequence it raises.
    """
    op = next((op for op in call.ops if op.kind == "rnn"), None)
    if op is None or is_packed(op):
        return 0
    kind = call.node.cls.removesuffix("Cell")
    forward = {name: size for name, size in call.parameters if "_hr" not in name and not name.endswith("_reverse")}
    both = any(name.endswith("_reverse") for name, _ in call.parameters)
    layers = sum(name.startswith("weight_ih") for name in forward)
    hidden = op.inputs[2 if kind == "LSTM" else 1].shape[-1]
    flops = sum(forward.values()) + layers * _STATE[kind] * hidden
    return flops * numel(call.input[: 1 if call.node.cls.endswith("Cell") else 2]) * (2 if both else 1)


def _heads(call: Seen, batch: int) -> tuple[int, int]:
    """Heads and width of a head, from the query of the first product inside: [B, H, L, E] or [B x H, L, E]."""
    op: OpCall | None = call.operator("aten.scaled_dot_product_attention", "aten.matmul", "aten.bmm", "aten.baddbmm")
    if op is None:
        return 1, 1
    query = op.inputs[1 if op.name == "aten.baddbmm" else 0].shape
    return (query[1] if len(query) == 4 else query[0] // max(1, batch)), query[-1]


def _multi_head(call: Seen) -> float:
    """Scaling, projections with the inputs' own widths, scores, softmax, weighted sum, output projection."""
    query, key, value = call.call.inputs[:3]
    batch_first = bool(call.ops) and call.ops[0].name == "aten.transpose"
    length = 1 if batch_first else 0
    batch = query[1 - length]
    heads, _ = _heads(call, batch)
    flops = query[length] * query[2]
    flops += sum(shape[length] * shape[2] * shape[2] for shape in (query, key, value))
    if any(name == "in_proj_bias" for name, _ in call.parameters):
        flops += (query[length] + key[length] + value[length]) * query[2]
    scores = query[length] * key[length]
    flops += heads * scores * (query[2] // heads + 1 + value[2] // heads)
    return (flops + query[length] * value[2] * (value[2] + 1)) * batch


def _timm_attention(call: Seen) -> float:
    """Scaling, scores, softmax and weighted sum; the projections inside are hidden by this rule."""
    batch, length, _ = call.input
    heads, width = _heads(call, batch)
    return (length * width + length * length * (2 * width + 1)) * heads * batch


def _deformable(call: Seen) -> float:
    """A convolution with 24 more per tap for the interpolation, 25 with a mask."""
    op = call.operator("torchvision.deform_conv2d")
    if op is None:
        return 0
    weight, channels = op.inputs[1].shape, call.input[1]
    groups = channels // weight[1]
    per_tap = channels * (weight[0] // groups) + 24 + (len(call.call.inputs) == 3)
    positions = call.output[0] * numel(call.output[2:])
    biased = any(name == "bias" for name, _ in call.parameters)
    return numel(weight[2:]) * per_tap * positions + (numel(call.output) if biased else 0)


_SIZES = ("1d", "2d", "3d")
_POOLS = " ".join(
    f"{name}{size}" for name in ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool") for size in _SIZES
)
_NORMS = " ".join(f"{name}{size}" for name in ("BatchNorm", "InstanceNorm") for size in _SIZES)
_CONVS = " ".join(f"{name}{size}" for name in ("Conv", "ConvTranspose") for size in _SIZES)

PTFLOPS_RULES: ModuleRules = {
    **torch_nn(_CONVS, _convolution),
    **torch_nn("ReLU PReLU ELU LeakyReLU ReLU6 GELU", lambda call: numel(call.output)),
    **torch_nn(_POOLS, lambda call: numel(call.input)),
    **torch_nn(f"{_NORMS} GroupNorm LayerNorm", _affine_norm),
    **torch_nn("Linear", _linear),
    **torch_nn("Upsample", _upsample),
    **torch_nn("RNN GRU LSTM RNNCell GRUCell LSTMCell", _recurrent_layer),
    **torch_nn("MultiheadAttention", _multi_head),
    ("torchvision.ops.deform_conv", "DeformConv2d"): _deformable,
    ("timm.layers.attention", "Attention"): _timm_attention,
    ("timm.models.vision_transformer", "Attention"): _timm_attention,
}


def ptflops_items(trace: Trace) -> Iterator[CountedItem]:
    """ptflops' MACs by its `pytorch` backend. The walk that adds up figures ends at classes with a rule."""
    read, batch = visits(trace, lambda node: rule_of(node, PTFLOPS_RULES) is None), _batch_size(trace)
    for call in seen(trace):
        rule, times = rule_of(call.node, PTFLOPS_RULES), read.get(call.node.identity, 0)
        amount = rule(call) * times if rule is not None and times else 0
        if amount:
            yield from call.items(amount if batch == 1 else amount / batch)
    for function in trace.functions:
        amount = function_cost(function)
        kind = trace.ops[function.op].kind if function.op < len(trace.ops) else "none"
        if amount:
            yield CountedItem(function.name, kind, function.module, function.call, function.op, amount)


def _batch_note(trace: Trace, found: ToolCount) -> list[str]:
    batch = _batch_size(trace)
    return [f"ptflops divides what modules cost by the batch, {batch}, not what functions cost."] if batch > 1 else []


def _batch_size(trace: Trace) -> int:
    """The length of the only argument, a tensor or a list. It takes several by name alone, where it sees none."""
    names = [trace.named.get(ref.value, "") for ref in trace.inputs]
    if not names or not all(name.startswith(_FIRST_ARGUMENT) for name in names):
        return 1
    if names[0] == _FIRST_ARGUMENT:
        return trace.inputs[0].shape[0] if trace.inputs[0].shape else 1
    return len({name.removeprefix(_FIRST_ARGUMENT).partition("]")[0] for name in names})


CONVENTION = Convention(
    "ptflops",
    "MACs",
    1,
    "ptflops 0.7.5, backend pytorch",
    "operators spelled * + @, fused attention, and classes that are not torch.nn's own",
    ptflops_items,
    functions=True,
    notes=_batch_note,
    reasons_fewer={
        "conv": "averaged over the batch",
        "transposed conv": "averaged over the batch",
        "matmul": "no F.linear, no @, nothing inside a module with a rule",
    },
    reasons_more={
        "conv": "biases",
        "transposed conv": "biases",
        "matmul": "biases",
        "attention": "scaling and softmax",
        "norm": "1 or 2 per element",
        "activation": "1 per element, those of torch.nn twice",
        "pooling": "1 per element, twice",
        "elementwise": "torch.mul and torch.add",
        "interpolation": "1 per element",
    },
)
