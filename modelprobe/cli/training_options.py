"""The options of a training step: `training`, `memory`, `params`."""

from __future__ import annotations

from typing import Annotated

from modelprobe.cli.options import COUNTING, one_of, option
from modelprobe.cost.optimizers.known import OPTIMIZERS

OptimizerOpt = Annotated[
    str,
    option(
        "--optimizer",
        metavar="|".join(OPTIMIZERS),
        callback=one_of("--optimizer", tuple(OPTIMIZERS)),
        panel=COUNTING,
        help="The optimizer of the step.",
    ),
]

FreezeOpt = Annotated[
    list[str] | None,
    option(
        "--freeze",
        metavar="PATTERN[,PATTERN]",
        panel=COUNTING,
        help="Parameters that do not train: 'conv1,layer1.*'. Modules or parameters, with wildcards. Repeatable.",
    ),
]

LossOpt = Annotated[
    str | None,
    option("--loss", metavar="FILE.py:FUNCTION", panel=COUNTING, help="With --train: the loss of the model's output."),
]
