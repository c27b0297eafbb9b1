"""Of 32 well-known models, how many does each tool count right? `python -m tests.benchmarks.peers`, about ten minutes.

Every tool is asked itself, by `reconcile`. Right is what differs from the multiply-accumulates of convolutions,
matrix products, attention and recurrent cells by less than 0.1 %.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from modelprobe.cost.other_tools import OTHER_TOOLS
from modelprobe.cost.other_tools.comparison import ToolComparison, ToolRow
from modelprobe.cost.other_tools.reconcile import reconcile
from modelprobe.model.build import TargetRequest

RIGHT, NEAR = 0.001, 0.03

MODELS = """
    torchvision:alexnet torchvision:vgg16_bn torchvision:resnet18 torchvision:resnet50 torchvision:resnext50_32x4d
    torchvision:densenet121 torchvision:inception_v3 torchvision:googlenet torchvision:squeezenet1_1
    torchvision:mobilenet_v2 torchvision:mobilenet_v3_large torchvision:shufflenet_v2_x1_0
    torchvision:efficientnet_b0 torchvision:efficientnet_v2_s torchvision:regnet_y_8gf torchvision:convnext_tiny
    torchvision:vit_b_16 torchvision:swin_t torchvision:swin_v2_t torchvision:maxvit_t torchvision:r3d_18
    torchvision:deeplabv3_resnet50 timm:vit_base_patch16_224 timm:deit3_small_patch16_224
    timm:beit_base_patch16_224 timm:eva02_tiny_patch14_224 timm:mixer_b16_224 timm:convnextv2_tiny
    timm:coatnet_0_rw_224 timm:xcit_small_12_p16_224 timm:sequencer2d_s timm:mobilenetv4_conv_medium
""".split()


def main() -> None:
    """Print a row per model, and how many each tool gets right."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one tool and one model")
    parser.add_argument("--only", default="", help="take models whose names contain this only")
    given = parser.parse_args()
    wanted, start = [name for name in MODELS if given.only in name], time.perf_counter()
    print(f"{'share of our MACs':<36}{'GMACs':>9}" + "".join(f"{name:>14}" for name in OTHER_TOOLS))
    right, near, failed, odd = Counter[str](), Counter[str](), Counter[str](), 0
    for name in wanted:
        found = reconcile(TargetRequest(name), timeout=given.timeout)
        print(_line(name, found), flush=True)
        for row in found.rows:
            off = abs((row.ratio or 0) - 1)
            right[row.tool] += off < RIGHT
            near[row.tool] += off < NEAR
            failed[row.tool] += bool(row.problem)
            odd += row.tool in OTHER_TOOLS and bool(row.unexplained)
    for label, counts in ((f"right, within {RIGHT:.1%}", right), (f"within {NEAR:.0%}", near), ("no figure", failed)):
        print(f"{f'{label}, of {len(wanted)}':<45}" + "".join(f"{counts[name]:>14}" for name in OTHER_TOOLS))
    print(f"{odd} figures not explained by their convention; {time.perf_counter() - start:.0f} s")


def _line(name: str, found: ToolComparison) -> str:
    rows = {row.tool: row for row in found.rows}
    return f"{name:<36}{found.macs / 1e9:>9.3f}" + "".join(f"{_share(rows[tool]):>14}" for tool in OTHER_TOOLS)


def _share(row: ToolRow) -> str:
    return row.problem[:12] if row.ratio is None else f"{row.ratio:.1%}{' !' if row.unexplained else ''}"


if __name__ == "__main__":
    main()
