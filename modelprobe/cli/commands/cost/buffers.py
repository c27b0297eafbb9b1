"""`modelprobe buffers`: which tensors are not parameters, whether they are saved, and whether training changes them."""

from __future__ import annotations

from typing import Annotated

from modelprobe.cli.options import OUTPUT, BatchOpt, ModelOptions, ReportOptions, ShapeOptions, option, target_request
from modelprobe.model.build import changed_by_training, load_model

EXAMPLES = (
    "modelprobe buffers resnet18",
    "modelprobe buffers samples/models.py:TinyAttention --all",
)

ListAllOpt = Annotated[bool, option("--all", panel=OUTPUT, help="List every buffer.")]


def command(
    model: ModelOptions,
    inputs: ShapeOptions,
    *,
    batch: BatchOpt = None,
    show_all: ListAllOpt = False,
    report: ReportOptions,
) -> None:
    """Buffers: owner, shape, bytes, in the state_dict or not, updated by a forward in training mode or not."""
    report.check()
    from modelprobe.cost.buffers import buffers_of
    from modelprobe.tracing.module_tree import saved_names

    loaded = load_model(target_request(model, inputs, batch=batch))
    tree, changed, notes = changed_by_training(loaded)
    result = buffers_of(
        tree,
        changed=changed,
        saved=saved_names(loaded.model),
        show_all=show_all or not report.is_short(),
        model=loaded.target.name,
        notes=notes,
        env=loaded.env,
    )
    report.emit(result.report())
