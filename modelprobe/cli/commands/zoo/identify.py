"""`modelprobe identify`: which network a weight file is of, by its names and shapes alone."""

from __future__ import annotations

from modelprobe.cli.file_options import BranchOpt, WeightsArg
from modelprobe.cli.options import ReportOptions

EXAMPLES = (
    "modelprobe identify samples/digit_cnn.pth",
    "modelprobe identify samples/digit_cnn.pth -f json",
)


def command(file: WeightsArg, *, branch: BranchOpt = None, report: ReportOptions) -> None:
    """The network of torchvision, timm or your own index whose names and shapes a weight file has, and what differs.

    Only the header is read, and nothing in it is run. What is in no index is described as far as names and shapes go.
    """
    report.check()
    from modelprobe.environment import brief
    from modelprobe.zoo.identify import identify

    report.emit(identify(file, branch, brief()).report())
