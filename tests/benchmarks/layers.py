"""How times by layer hold against the time of plain passes: `python -m tests.benchmarks.layers [NETWORK ...]`.

For each network: the part of recorded operators that got a time of their own, what the profiler adds to a pass, and the
factor by which the sum of exclusive times, without the profiler's own, had to be brought to plain passes
that were timed between them.
"""

from __future__ import annotations

import argparse

from modelprobe.cost.timing.layers.of_target import profile_layers
from modelprobe.cost.timing.measure import profile_model
from modelprobe.cost.timing.passes import TimingSetting
from modelprobe.model.build import TargetRequest, load_model

NETWORKS = ("resnet18", "mobilenet_v3_small", "swin_t", "vit_b_16")


def main() -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--seconds", type=float, default=6.0)
    asked = parser.parse_args()
    for name in asked.networks:
        loaded = load_model(TargetRequest(name, device="cpu"))
        whole = profile_model(loaded, 1.0, TimingSetting())
        times = profile_layers(loaded, whole, asked.seconds, TimingSetting()).times.times("layer", None, None)
        near = times.scale * times.plain_s / times.median_s
        print(
            f"{name:<22} own time {times.mapped}/{times.recorded}, shared {times.grouped}; profiler "
            f"{times.instrumented_s / times.plain_s - 1:+.1%}; sum of exclusive times x{near:.3f} = plain pass of "
            f"{times.plain_s * 1e3:.1f} ms"
        )


if __name__ == "__main__":
    main()
