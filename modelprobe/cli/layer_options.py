"""The options of `profile` that tell where the time goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from modelprobe.cli.options import COUNTING, DepthOpt, TopOpt, one_of, option

if TYPE_CHECKING:
    from modelprobe.cli.options import ReportOptions
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


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """Where the time goes."""

    by: TimesByOpt = None
    depth: DepthOpt = None
    top: TopOpt = None

    @property
    def are_given(self) -> bool:
        """Whether the profiler is to run."""
        return self != LayerOptions()

    def applied(
        self, found: ProfileResult, loaded: LoadedModel, seconds: float, setting: TimingSetting, report: ReportOptions
    ) -> ProfileResult:
        """The same result with what was asked for beside it."""
        if not self.are_given:
            return found
        from modelprobe.cost.timing.layers.of_target import profile_layers

        profiled = profile_layers(loaded, found, seconds, setting)
        return replace(found, layers=profiled.times.times(self.by or "layer", report.depth(self.depth), self.top))
