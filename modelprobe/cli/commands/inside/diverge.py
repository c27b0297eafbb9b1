"""`modelprobe diverge`: the first operator at which two runs part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from modelprobe.cli.options import (
    INPUT,
    MODEL,
    RARE,
    TARGET,
    ArchOpt,
    BatchOpt,
    DtypeOpt,
    InputOpt,
    InputsFromOpt,
    ReportOptions,
    SeedOpt,
    SetOpt,
    option,
)
from modelprobe.errors import Differs

if TYPE_CHECKING:
    from modelprobe.model.build import TargetRequest

EXAMPLES = (
    "modelprobe diverge timm:test_vit timm:test_vit --dtype-b bfloat16 --input 160",
    "modelprobe diverge resnet18 timm:resnet18 --input 64",
)

ModelAArg = Annotated[
    str,
    typer.Argument(
        metavar="A",
        help="A model: resnet50, timm:NAME, net.py:Net, or a weight file with --arch.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
ModelBArg = Annotated[
    str, typer.Argument(metavar="B", help="What it is compared with.", show_default=False, rich_help_panel=TARGET)
]
SetBOpt = Annotated[
    list[str] | None,
    option("--set-b", metavar="KEY=VALUE", panel=MODEL, help="As --set, for B alone. Repeatable."),
]
ArchBOpt = Annotated[
    str | None, option("--arch-b", metavar="NAME", panel=MODEL, help="The network of B. Default: that of --arch.")
]
DtypeBOpt = Annotated[
    str | None, option("--dtype-b", metavar="DTYPE", panel=INPUT, help="The floating-point type of B alone.")
]
BothDevicesOpt = Annotated[
    str, option("--device", metavar="DEVICE", panel=INPUT, help="Where both run: cpu, cuda, cuda:1, mps.")
]
DeviceBOpt = Annotated[str | None, option("--device-b", metavar="DEVICE", panel=INPUT, help="Where B alone runs.")]
TrainStepOpt = Annotated[
    bool, option("--train", panel=INPUT, help="Compare a training step: forward in training mode, and backward.")
]
PythonBOpt = Annotated[
    str | None,
    option(
        "--python-b",
        metavar="PYTHON",
        panel=MODEL,
        help="The Python in which B runs, such as that of an environment with another torch: env/bin/python.",
    ),
]
UnsafeOpt = Annotated[
    bool, option("--unsafe-load", panel=RARE, help="Unpickle whole models, which runs any code that the files name.")
]


def _with_arch(request: TargetRequest, arch: str | None) -> TargetRequest:
    """With the architecture, if the target is a weight file: for any other it would be refused."""
    from modelprobe.checkpoint.file_names import names_weights

    return replace(request, arch=arch) if names_weights(request.target) else request


def command(
    a: ModelAArg,
    b: ModelBArg,
    *,
    settings: SetOpt = None,
    settings_b: SetBOpt = None,
    arch: ArchOpt = None,
    arch_b: ArchBOpt = None,
    input: InputOpt = None,
    inputs_from: InputsFromOpt = None,
    batch: BatchOpt = None,
    dtype: DtypeOpt = None,
    dtype_b: DtypeBOpt = None,
    device: BothDevicesOpt = "cpu",
    device_b: DeviceBOpt = None,
    python_b: PythonBOpt = None,
    train: TrainStepOpt = False,
    seed: SeedOpt = 0,
    unsafe_load: UnsafeOpt = False,
    report: ReportOptions,
) -> None:
    """The first operator that gives another result on equal operands: two ports, a conversion, two settings.

    Exit code 1 when there is one. B is run on A's values step by step, so that an inherited difference is told from an
    operator's own. A model without weights gets those of the other; where neither has any, both get the same random
    ones.
    """
    report.check()
    from modelprobe.inside.divergence.of_targets import diverge_targets
    from modelprobe.model.build import TargetRequest
    from modelprobe.model.devices import checked_device
    from modelprobe.model.inputs.series import parse_batches
    from modelprobe.model.inputs.spec import parse_floating

    for text in filter(None, (dtype, dtype_b)):
        parse_floating(text)
    batches = parse_batches(batch)
    first = TargetRequest(
        a, settings or (), input or (), inputs_from, batches[0] if batches else None, dtype, seed=seed,
        unsafe_load=unsafe_load,
    )  # fmt: skip
    second = replace(first, target=b, settings=(*(settings or ()), *(settings_b or ())), dtype=dtype_b or dtype)
    devices = checked_device(device), checked_device(device_b or device)
    result = diverge_targets(
        _with_arch(first, arch), _with_arch(second, arch_b or arch), train=train, devices=devices, python_b=python_b
    )
    report.emit(result.report())
    if result.culprit is not None:
        raise Differs(f"{a} and {b} part at {result.culprit.operator} in {result.culprit.place}")
