"""The options of `profile` that tell where the time goes."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from modelprobe.cli.options import COUNTING, OUTPUT, DepthOpt, TopOpt, one_of, option
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    from modelprobe.cli.options import ReportOptions
    from modelprobe.cost.memory.of_target import MemoryRequest
    from modelprobe.cost.timing.layers.of_target import ProfiledTarget
    from modelprobe.cost.timing.layers.roofline import Roofline
    from modelprobe.cost.timing.measure import ProfileResult
    from modelprobe.cost.timing.passes import TimingSetting
    from modelprobe.model.build import LoadedModel

TIME_GROUPINGS = ("layer", "operator")

TimesByOpt = Annotated[
    str | None,
    option(
        "--by",
        metavar="|".join(TIME_GROUPINGS),
        callback=one_of("--by", (None, *TIME_GROUPINGS)),
        panel=COUNTING,
        help="Where the time goes, from torch's profiler: by module, or by operator.",
    ),
]
RooflineOpt = Annotated[
    Path | None,
    option("--plot", metavar="FILE.png", panel=OUTPUT, help="Draw the roofline: each layer under the measured peaks."),
]
ChromeOpt = Annotated[
    Path | None,
    option("--trace", metavar="FILE.json", panel=OUTPUT, help="The profiler's trace, for Perfetto and Chrome."),
]
FlameOpt = Annotated[
    Path | None,
    option("--flame", metavar="FILE.html", panel=OUTPUT, help="A flame graph by module, a page that loads nothing."),
]
TensorboardOpt = Annotated[
    Path | None,
    option("--tensorboard", metavar="DIR", panel=OUTPUT, help="Figures, samples and the trace for TensorBoard."),
]


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """Where the time goes."""

    by: TimesByOpt = None
    depth: DepthOpt = None
    top: TopOpt = None
    plot: RooflineOpt = None

    trace: ChromeOpt = None
    flame: FlameOpt = None
    tensorboard: TensorboardOpt = None

    def check(self, force: bool) -> None:
        """Raise BadInput for a file that has another suffix, or that exists."""
        from modelprobe.files.atomic import check_target

        wanted = ((self.plot, (".png",)), (self.trace, (".json", ".json.gz")), (self.flame, (".html",)))
        for path, suffixes in wanted:
            if path is None:
                continue
            if not path.name.lower().endswith(suffixes):
                raise BadInput(f"{path} has another suffix than {suffixes[0]}", f"name it with {suffixes[0]}")
            check_target(path, force=force)
        if self.tensorboard is not None:
            from modelprobe.cost.timing.layers.tensorboard import check_tensorboard

            check_tensorboard(self.tensorboard)

    @property
    def are_given(self) -> bool:
        """Whether the profiler is to run."""
        return self != LayerOptions()

    def applied(
        self, found: ProfileResult, loaded: LoadedModel, seconds: float, setting: TimingSetting, run: MemoryRequest,
        report: ReportOptions,
    ) -> ProfileResult:  # fmt: skip
        """The same result with what was asked for beside it."""
        if not self.are_given:
            return found
        from modelprobe.cost.timing.layers.of_target import profile_layers
        from modelprobe.cost.timing.layers.roofline import roofline
        from modelprobe.cost.timing.measure import timed_setting
        from modelprobe.cost.timing.peaks import peaks_of

        profiled = profile_layers(loaded, found, seconds, timed_setting(loaded, setting, run))
        passes = b""
        if self.trace is not None or self.tensorboard is not None:
            from modelprobe.cost.timing.layers.chrome import chrome_trace

            passes = chrome_trace(profiled.profiler)
        self._write(profiled, passes, report.force)
        times = profiled.times.times(self.by or "layer", report.depth(self.depth), self.top)
        found = replace(found, layers=times)
        if self.tensorboard is not None:
            from modelprobe.cost.timing.layers.tensorboard import write_tensorboard

            write_tensorboard(self.tensorboard, found, passes)
        if found.rates is None or found.rates.peaks is None:
            return found
        note = "Bytes are those of the recorded types: autocast moves fewer." if setting.amp else ""
        of_device = partial(peaks_of, found.device, found.rates.dtype, found.threads)
        roofs = roofline(profiled.times, of_device() or found.rates.peaks, note, of_device(convolutions=True))
        return replace(found, roofline=_drawn(roofs, found.model, self.plot, report.force) if self.plot else roofs)

    def _write(self, profiled: ProfiledTarget, passes: bytes, force: bool) -> None:
        from modelprobe.console import say
        from modelprobe.files.atomic import atomic_write

        if self.trace is not None:
            zipped = self.trace.suffix == ".gz"
            atomic_write(self.trace, gzip.compress(passes, mtime=0) if zipped else passes, force=force)
            say(f"wrote {self.trace}", always=False)
        if self.flame is not None:
            from modelprobe.cost.timing.layers.flame import flame_page

            atomic_write(self.flame, flame_page(profiled.times), force=force)
            say(f"wrote {self.flame}", always=False)


def _drawn(roofs: Roofline, model: str, path: Path, force: bool) -> Roofline:
    from modelprobe.files.atomic import atomic_write
    from modelprobe.vision.pictures.curves import roofline_plot

    points = [
        (one.intensity, one.flops_per_s, one.seconds, f"bound by {one.bound}") for one in roofs.layers if one.flops
    ]
    labels = [one.path or one.cls for one in roofs.hot if one.flops]
    both = [one for one in (roofs.peaks, roofs.convolution_peaks) if one is not None]
    peaks = [(one.flops_per_s, one.bytes_per_s) for one in both]
    title = f"{model}: layers under the measured peaks of {roofs.peaks.name}"
    atomic_write(path, roofline_plot(points, labels, peaks, title), force=force)
    return replace(roofs, plot=str(path))
