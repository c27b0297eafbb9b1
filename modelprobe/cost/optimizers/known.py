"""The optimizers whose update `training` counts: FLOPs per parameter, and the state that each keeps."""

from __future__ import annotations

from dataclasses import dataclass

from modelprobe.errors import BadInput


@dataclass(frozen=True, slots=True)
class Optimizer:
    """A rule of update with torch's default arguments, single-tensor and not fused.

    `flops` are per element of a parameter, once the state exists (the first step of momentum only copies). `states`
    is how many tensors of the parameter's size and dtype it keeps; step counters, 4 bytes per tensor, are left out.
    """

    name: str
    flops: int
    states: int
    rule: str


OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("sgd", 2, 0, "p -= lr g"),
        Optimizer("sgd-momentum", 4, 1, "v = mu v + g, p -= lr v"),
        # m += (1 - b1)(g - m): 3. v = b2 v + (1 - b2) g g: 4. sqrt(v) / c2 + eps: 3. p -= (lr / c1) m / that: 3.
        Optimizer("adam", 13, 2, "moments m and v, p -= lr m / (sqrt v + eps), with bias corrections"),
        # As Adam (Kingma and Ba 2015), and p *= 1 - lr decay first: 1 (Loshchilov and Hutter 2019).
        Optimizer("adamw", 14, 2, "as adam, and p *= 1 - lr decay"),
        # v = a v + (1 - a) g g: 4. sqrt(v) + eps: 2. p -= lr g / that: 3 (Hinton 2012, lecture 6e).
        Optimizer("rmsprop", 9, 1, "v = a v + (1 - a) g g, p -= lr g / (sqrt v + eps)"),
        # v += g g: 3 as torch writes it. sqrt(v) + eps: 2. p -= lr g / that: 3 (Duchi et al. 2011).
        Optimizer("adagrad", 8, 1, "v += g g, p -= lr g / (sqrt v + eps)"),
    )
}
"""Name on the command line -> rule. Source: the algorithms in the documentation of torch.optim."""


def find_optimizer(name: str) -> Optimizer:
    """The optimizer of that name. Raises BadInput for an unknown one."""
    if name not in OPTIMIZERS:
        raise BadInput(f"the optimizer {name!r} is not known", f"choose one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]
