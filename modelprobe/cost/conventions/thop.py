"""How thop counts: a rule per exact class of torch.nn, once per call.

Facts: thop 0.1.1 (0.1.1.post2209072238), `thop/profile.py`, `thop/vision/basic_hooks.py`, `calc_func.py`,
`rnn_hooks.py`. Classes without a rule are 0 and are looked into; those with one are not. A module that stands at n
places (in n parents) is hooked n times and read n times, so it counts n squared times. Nothing outside such modules is
seen: F.*, `@`, attention, subclasses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelprobe.cost.conventions.convention import Convention, CountedItem
from modelprobe.cost.conventions.lowering import is_packed
from modelprobe.cost.conventions.modules import ModuleRules, Seen, rule_of, seen, torch_nn, visits
from modelprobe.tracing.records import Trace, numel

_GROUPS = re.compile(r"\bgroups=(\d+)")


def _thop_convolution(call: Seen) -> int:
    """Output elements x input channels of a group x kernel, transposed convolutions alike; no bias."""
    weight, groups = call.weight(), _GROUPS.search(call.node.extra)
    if weight is None or len(call.input) < 2:
        return 0
    return numel(call.output) * (call.input[1] // (int(groups[1]) if groups else 1)) * numel(weight.shape[2:])


def _thop_norm(call: Seen) -> int:
    """2 per element, 4 with an affine pair."""
    return numel(call.input) * (4 if "affine=True" in call.node.extra else 2)


def _softmax(call: Seen) -> int:
    """3 n - 1 per row of n."""
    op = call.operator("aten.softmax", "aten._softmax")
    dim = int(op.arguments[1]) if op is not None and len(op.arguments) > 1 else -1
    features = call.input[dim]
    return numel(call.input) // features * (3 * features - 1)


def _adaptive_average(call: Seen) -> int:
    """One more than the ratio of input to output per output element."""
    ratio = 1.0
    for size, made in zip(call.input[2:], call.output[2:], strict=True):
        ratio *= size / made
    return int((ratio + 1) * numel(call.output))


_UPSAMPLE = {"nearest": 1, "linear": 5, "bilinear": 11, "bicubic": 259}


def _thop_upsample(call: Seen) -> int:
    op = next((op for op in call.ops if op.name.startswith("aten.upsample_")), None)
    mode = op.name.removeprefix("aten.upsample_").rstrip("123d") if op is not None else ""
    return _UPSAMPLE.get(mode, 0) * numel(call.output)


def _thop_linear(call: Seen) -> int:
    return call.input[-1] * numel(call.output)


def _nothing(_: Seen) -> int:
    return 0


def _cell_step(gates: int, rest: int, inputs: int, hidden: int, bias: bool) -> int:
    """Per gate a product with input and state, a sum, both biases; `rest` sums and products of the state beside."""
    return hidden * (gates * (inputs + hidden + 1 + 2 * bias) + rest)


_GATES_AND_SUMS = {"RNN": (1, 0), "GRU": (3, 4), "LSTM": (4, 4)}


def _one_step(call: Seen) -> int:
    kind = call.node.cls.removesuffix("Cell")
    gates, rest = _GATES_AND_SUMS[kind]
    op = call.operator("aten.lstm_cell", "aten.gru_cell", "aten.rnn_tanh_cell", "aten.rnn_relu_cell")
    if op is None:
        return 0
    matrices = op.inputs[3:] if kind == "LSTM" else op.inputs[2:]
    hidden, inputs = matrices[0].shape[0] // gates, matrices[0].shape[1]
    return _cell_step(gates, rest, inputs, hidden, len(matrices) > 2) * call.input[0]


def _all_steps(call: Seen) -> int:
    """Every step of every layer; a packed batch as if its longest sequence were everybody's, projections ignored."""
    gates, rest = _GATES_AND_SUMS[call.node.cls]
    op = call.operator("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")
    if op is None:
        return 0
    packed = is_packed(op)
    bias, layers, _, _, both = op.arguments[3 + packed : 8 + packed]
    matrices = [ref for ref in op.inputs[1:] if len(ref.shape) == 2]
    hidden, inputs = matrices[0].shape[0] // gates, matrices[0].shape[1]
    ways = 2 if both else 1
    first = _cell_step(gates, rest, inputs, hidden, bool(bias)) * ways
    deeper = _cell_step(gates, rest, hidden * ways, hidden, bool(bias)) * ways * (int(layers) - 1)
    # Packed: [steps] batch sizes, [layers x ways, batch, H] states.
    steps = (op.inputs[1].shape[0], op.inputs[2].shape[1]) if packed else call.input[:2]
    return (first + deeper) * numel(steps)


THOP_RULES: ModuleRules = {
    **torch_nn("Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d", _thop_convolution),
    **torch_nn("BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm LayerNorm", _thop_norm),
    **torch_nn("InstanceNorm1d InstanceNorm2d InstanceNorm3d", _thop_norm),
    **torch_nn("PReLU", lambda call: numel(call.input)),
    **torch_nn("Softmax", _softmax),
    **torch_nn("ReLU ReLU6 LeakyReLU Dropout PixelShuffle Sequential ZeroPad2d", _nothing),
    **torch_nn("MaxPool1d MaxPool2d MaxPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d", _nothing),
    **torch_nn("AvgPool1d AvgPool2d AvgPool3d", lambda call: numel(call.output)),
    **torch_nn("AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d", _adaptive_average),
    **torch_nn("Linear", _thop_linear),
    **torch_nn("Upsample UpsamplingBilinear2d UpsamplingNearest2d", _thop_upsample),
    **torch_nn("RNNCell GRUCell LSTMCell", _one_step),
    **torch_nn("RNN GRU LSTM", _all_steps),
}


def thop_items(trace: Trace) -> Iterator[CountedItem]:
    """thop's operations."""
    hooked = visits(trace, lambda node: True)
    # The figure of a class with a rule stands for what is inside, but for containers and the model itself.
    read = visits(trace, lambda node: not node.path or rule_of(node, THOP_RULES) is None or node.cls == "Sequential")
    for call in seen(trace):
        rule, times = rule_of(call.node, THOP_RULES), read.get(call.node.identity, 0) * hooked[call.node.identity]
        amount = rule(call) * times if rule is not None and times else 0
        if amount:
            yield from call.items(amount)


CONVENTION = Convention(
    "thop",
    "MACs",
    1,
    "thop 0.1.1.post2209072238",
    "everything but the plain classes of torch.nn: no F.*, no @, no attention, no subclass",
    thop_items,
    reasons_more={
        "transposed conv": "the filter per output position",
        "norm": "4 per element",
        "pooling": "1 per average and its sums",
        "activation": "nn.Softmax and nn.PReLU",
        "interpolation": "up to 259 per element, by mode",
        "rnn": "biases and gates",
    },
)
