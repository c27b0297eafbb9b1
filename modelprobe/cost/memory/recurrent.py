"""Recurrent layers as devices run them: oneDNN's LSTM on a CPU, cuDNN's layers on a GPU. `meta` has their steps alone.

oneDNN's layer is an operator, whose workspace is measured here as that of other kernels. cuDNN's is followed by what it
allocates: the reserve that the backward pass needs is known, the workspace a rule fitted to 293 layers on an H100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from modelprobe.cost.memory.inside_kernels import MAX_MACS, TensorLike, allocations_of, peak_of, stand_in

KINDS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}
"""torch's functions of recurrent layers -> what cuDNN runs."""

RESERVED = {"LSTM": (5, 2), "GRU": (6, 1), "RNN": (1, 1)}
"""What cuDNN keeps for the backward pass: per step and layer, per layer, in outputs of one direction and step."""

WORKSPACE = {
    ("LSTM", 4): (4.01, 0.84), ("LSTM", 2): (6.13, 9.89), ("GRU", 4): (5.86, 4.63), ("GRU", 2): (1.21, 5.56),
    ("RNN", 4): (5.86, 4.31), ("RNN", 2): (1.84, 8.43),
}  # fmt: skip
"""Bytes of cuDNN's workspace beside 8 MiB for each layer and direction and the weights: per byte of all layers' outputs
and of the input. Least squares over layers of 1 to 3, of 16 to 512 wide, 1 to 128 steps, batches of 1 to 32
(`python -m tests.benchmarks.recurrent`): median error of a training peak 0.5 %, a tenth of them beyond 9 %."""

LAYER, LAYER_BACKWARD = "aten.mkldnn_rnn_layer", "aten.mkldnn_rnn_layer_backward"
LAYERS_OF_CPU = (LAYER, LAYER_BACKWARD)
"""oneDNN's operators: `layer_of_cpu` tells what their kernels take."""

_MODE_OF_LSTM = 2  # the mode of oneDNN's layer
_SHORT = (8, 9)  # steps at which a layer that would take long is measured


@contextmanager
def recurrent_layers(like: str) -> Iterator[None]:
    """Let recurrent layers on `meta` be run as cpu or cuda would; the rest stays as it is."""
    functions: Any = torch._VF
    for name in KINDS:
        setattr(functions, name, partial(_run_layer, name, like, getattr(functions, name)))
    try:
        yield
    finally:
        for name in KINDS:
            delattr(functions, name)


def _run_layer(name: str, like: str, plain: Callable[..., Any], *args: Any) -> Any:
    padded = not isinstance(args[3], (list, tuple))
    given, hx, weights, biased, layers, dropout, train, both, batch_first = (
        args if padded else (args[0], *args[2:], False)
    )
    states = tuple(hx) if isinstance(hx, (list, tuple)) else (hx,)
    projected = len({state.shape[-1] for state in states}) > 1
    if not given.is_meta or not given.numel():
        return plain(*args)
    if like == "cuda":
        sizes = None if padded else args[1]
        return _of_cudnn(KINDS[name], given, states, weights, layers, train, both, batch_first, sizes)
    mkldnn: Any = torch.backends.mkldnn
    narrow = given.dtype in (torch.bfloat16, torch.float16)
    onednn: Any = torch.ops.mkldnn
    takes = given.dtype is torch.float32 or (narrow and onednn._is_mkldnn_bf16_supported())
    if not padded:
        return plain(*args)
    if name == "lstm" and takes and not projected and mkldnn.is_available():
        return _of_onednn(given, states, weights, biased, layers, dropout, train, both, batch_first)
    return _of_steps(name, given, states, weights, layers, dropout, train, both, batch_first)


def _of_onednn(
    given: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], biased: bool, layers: int, dropout: float,
    train: bool, both: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As torch's `lstm_mkldnn`: a call for each layer and direction. Source: ATen/native/mkldnn/RNN.cpp."""
    layer: Any = torch.ops.aten.mkldnn_rnn_layer
    given = x = (given.transpose(0, 1) if batch_first else given).contiguous()
    hx, cx = (state.contiguous() for state in states)
    width, many, directions = hx.shape[-1], 4 if biased else 2, 2 if both else 1
    last_h, last_c, outputs = [], [], [x] * directions
    for at in range(layers):
        for direction in range(directions):
            place = at * directions + direction
            own = list(weights[place * many : (place + 1) * many])
            own += [] if biased else [torch.zeros_like(weight) for weight in own]
            of_run: tuple[Any, ...] = (
                bool(direction),
                [],
                _MODE_OF_LSTM,
                width,
                layers,
                biased,
                both,
                batch_first,
                train,
            )
            out, h, c, _ = layer(x, *own, hx[place], cx[place], *of_run)
            outputs[direction] = out
            last_h.append(h)
            last_c.append(c)
            del out, h, c
        x = torch.cat(outputs, -1) if both else outputs[0]
        if dropout and train and at < layers - 1:
            x = torch.dropout(x, dropout, True)
    return x.transpose(0, 1) if batch_first else x, torch.stack(last_h), torch.stack(last_c)


def _of_steps(
    name: str, given: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], layers: int, dropout: float,
    train: bool, both: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """As a CPU runs what oneDNN does not: products with the inputs of all steps at once, then step by step.

    Source: ATen/native/RNN.cpp; on `meta` each step has its own product.
    """
    x = given.transpose(0, 1) if batch_first else given
    directions, last = 2 if both else 1, []
    many = len(weights) // (layers * directions)
    projected = many in (3, 5)
    for at in range(layers):
        outputs, alive = [], []
        for direction in range(directions):
            place = at * directions + direction
            own = list(weights[place * many : (place + 1) * many])
            project = own.pop() if projected else None
            biases: Sequence[Tensor | None] = own[2:] or (None, None)
            steps = torch.nn.functional.linear(x, own[0], biases[0]).unbind(0)
            hidden: tuple[Tensor, ...] = tuple(state[place] for state in states)
            found = []
            for step in reversed(steps) if direction else steps:
                hidden = _next_hidden(name, step, hidden, own[1], biases[1], project)
                found.append(hidden[0])
            outputs.append(torch.stack(found[::-1] if direction else found))
            last.append(hidden)
            alive.append(found)  # until both directions are joined
            del steps, found
        x = torch.cat(outputs, -1) if both else outputs[0]
        del alive
        if dropout and train and at < layers - 1:
            x = torch.dropout(x, dropout, True)
    return x.transpose(0, 1) if batch_first else x, *(torch.stack(states) for states in zip(*last, strict=True))


def _next_hidden(
    name: str, step: Tensor, hidden: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None, project: Tensor | None
) -> tuple[Tensor, ...]:
    """One step; `step` was multiplied already."""
    gates = torch.nn.functional.linear(hidden[0], weight, bias)
    if name == "gru":
        of_input, (reset, update, new) = step.unsafe_chunk(3, 1), gates.unsafe_chunk(3, 1)
        reset, update = reset.add_(of_input[0]).sigmoid_(), update.add_(of_input[1]).sigmoid_()
        new = of_input[2].add(new.mul_(reset)).tanh_()
        return ((hidden[0] - new).mul_(update).add_(new),)
    gates = gates.add_(step)
    if name != "lstm":
        return (gates.tanh() if name == "rnn_tanh" else gates.relu(),)
    taken, kept, new, shown = gates.unsafe_chunk(4, 1)
    cell = (kept.sigmoid_() * hidden[1]).add_(taken.sigmoid_() * new.tanh_())
    output = shown.sigmoid_() * cell.tanh()
    return (output if project is None else torch.matmul(output, project.t())), cell


def layer_of_cpu(operator: str, func: Callable[..., Any], args: Sequence[Any]) -> tuple[int, int]:
    """The most that the kernel of oneDNN holds at once, its results among it; and the bytes of a forward's workspace.

    Measured on zeros; a layer that would take long at a few steps, and continued in a straight line.
    """
    call = tuple(stand_in(value) for value in args)
    try:
        keeps = operator != LAYER or torch.is_grad_enabled()  # a workspace for the backward pass
        return _measured_layer(operator == LAYER, func, call, keeps, torch.get_num_threads())
    except RuntimeError:  # no such kernel here, or somebody profiles already
        return 0, 0


@lru_cache(maxsize=1024)
def _measured_layer(is_forward: bool, func: Any, call: tuple[Any, ...], keeps: bool, _threads: int) -> tuple[int, int]:
    steps, batch, width = call[0].shape
    gates = call[1].shape[0]
    work = steps * batch * gates * (width + gates // 4) * (1 if is_forward else 2)
    at = _SHORT if work > MAX_MACS and steps > _SHORT[1] else (steps,)
    found = []
    for length in at:
        short = tuple(_of_length(value, steps, length) for value in call)
        workspace = _workspace(short if is_forward else _forward_of(short)) if keeps else None
        if not is_forward:
            short = (*short[:-1], workspace)
        found.append((allocations_of(func, short, {}, keeps), workspace.nbytes if workspace is not None else 0))
    (low, small), (high, large) = found[0], found[-1]
    rest = steps - at[0]  # 0 where it was measured whole
    if len(low) != len(high):
        return peak_of(high) * steps // at[-1], small + (large - small) * rest
    return peak_of([a + (b - a) * rest for a, b in zip(low, high, strict=True)]), small + (large - small) * rest


def _workspace(call: tuple[Any, ...]) -> Tensor | None:
    layer: Any = torch.ops.aten.mkldnn_rnn_layer
    with torch.enable_grad():
        found: Tensor | None = layer(*(one.zeros() if isinstance(one, TensorLike) else one for one in call))[3]
    return found


def _forward_of(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of the forward call, from those of its backward pass."""
    reverse, mode, width, layers, biased, train, both, sizes, batch_first = call[13:22]
    return (*call[:7], reverse, list(sizes), mode, width, layers, biased, both, batch_first, train)


def _of_length(value: Any, steps: int, length: int) -> Any:
    """An operand with fewer steps, which come first."""
    if not isinstance(value, TensorLike) or len(value.shape) != 3 or value.shape[0] != steps:
        return value
    return value.of_batch(length)


def _of_cudnn(
    kind: str, given: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], layers: int, train: bool, both: bool,
    batch_first: bool, batch_sizes: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """As torch's `_cudnn_rnn`. Source: ATen/native/cudnn/RNN.cpp."""
    if torch.is_autocast_enabled("cuda"):
        given, *rest = (value.to(torch.get_autocast_dtype("cuda")) for value in (given, *states, *weights))
        states, weights = rest[: len(states)], rest[len(states) :]
    batch = states[0].shape[1] if batch_sizes is None else int(batch_sizes[0])
    directions = 2 if both else 1
    unit = directions * states[0].shape[-1] * given.element_size()
    rows = given.numel() // given.shape[-1]
    of_step, of_layer = RESERVED[kind]
    reserve = (of_step * layers + layers - 1) * rows * unit + of_layer * layers * batch * unit if train else 0
    of_output, of_input = WORKSPACE[kind, min(4, max(2, given.element_size()))]
    held = sum(weight.nbytes for weight in weights)
    workspace = layers * directions * 2**23 + held + int(of_output * layers * rows * unit + of_input * given.nbytes)
    run: Any = _CuDNN
    return tuple(run.apply((reserve, workspace, directions, batch_first), len(states), given, *states, *weights))


class _CuDNN(torch.autograd.Function):
    """Tensors of the sizes that cuDNN's call makes; the workspaces are gone when it returns."""

    @staticmethod
    def forward(ctx: Any, sizes: tuple[int, int, int, bool], states: int, given: Tensor, *rest: Tensor) -> Any:
        reserve, workspace, directions, batch_first = sizes
        x = (given.transpose(0, 1) if batch_first else given).contiguous()
        out = x.new_empty((*x.shape[:-1], directions * rest[0].shape[-1]))
        last = [torch.empty_like(state) for state in rest[:states]]
        kept = x.new_empty(reserve, dtype=torch.uint8)
        x.new_empty(workspace, dtype=torch.uint8)
        ctx.save_for_backward(x, out, kept, *rest)
        ctx.sizes, ctx.states = sizes, states
        return out.transpose(0, 1) if batch_first else out, *last

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *of_states: Tensor | None) -> Any:
        (_, workspace, _, batch_first), (x, _, _, *rest) = ctx.sizes, ctx.saved_tensors
        if gradient is not None:
            gradient = (gradient.transpose(0, 1) if batch_first else gradient).contiguous()
        of_input = torch.empty_like(x)
        states = [torch.empty_like(state) for state in rest[: ctx.states]]
        flat = x.new_empty(sum(weight.numel() for weight in rest[ctx.states :]))
        x.new_empty(workspace, dtype=torch.uint8)
        parts = flat.split([weight.numel() for weight in rest[ctx.states :]])
        weights = [part.view(weight.shape) for part, weight in zip(parts, rest[ctx.states :], strict=True)]
        return None, None, of_input.transpose(0, 1) if batch_first else of_input, *states, *weights
