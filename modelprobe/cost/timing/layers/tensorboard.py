"""A profile as TensorBoard reads it: figures, samples and tables as events, the profiler's trace for its plug-in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modelprobe.cost.timing.measure import ProfileResult
from modelprobe.errors import BadInput, one_line
from modelprobe.report.formats import Style
from modelprobe.report.formats.markdown import render


def check_tensorboard(folder: Path) -> None:
    """Raise BadInput where the package is missing, or the directory cannot be one."""
    if find_spec("tensorboard") is None:
        raise BadInput("--tensorboard needs the package tensorboard", "pip install tensorboard")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file", "--tensorboard names a directory")


def write_tensorboard(folder: Path, found: ProfileResult, passes: bytes) -> None:
    """Write one run into the directory; `passes` is the profiler's trace. Raises BadInput where that cannot be."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{found.model}.pt.trace.json").write_bytes(passes)
        with writer(str(folder)) as events:
            for name in ("median_s", "iqr_s", "per_second", "flops_per_s", "first_s", "peak_bytes"):
                value = getattr(found, name)
                if value is not None:
                    events.add_scalar(f"profile/{name}", value)
            for step, sample in enumerate(found.samples_s):
                events.add_scalar("profile/samples_s", sample, step)
            for layer in found.layers.layers if found.layers is not None else ():
                events.add_scalar(f"exclusive_s/{layer.path or found.model}", layer.exclusive_s)
            events.add_text("profile/report", render(found.report(), Style()))
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {one_line(error)}", "choose another directory") from error
