"""What every command prints in terminals of 80 and 160 columns, beside texts that somebody has read.

`pytest -m zoo tests/cli/test_golden_terminal.py --update-golden` writes them. Read the diff. The commands of
`test_commands.py` have theirs there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from modelprobe.cli.app import COMMANDS
from tests.command_line import CommandLine
from tests.samples import ROOT, bring_samples

pytestmark = pytest.mark.zoo

M = "samples/models.py"
DIGITS = f"{M}:DigitCNN --weights samples/digit_cnn.pth --image samples/digit_b.png"
LINES = {
    "trace": f"trace {M}:TinyCNN",
    "graph": f"graph {M}:TinyAttention --depth 2",
    "memory": f"memory {M}:TinyCNN --train --optimizer adam --device cuda --batch 4",
    "profile": f"profile {M}:TinyAttention --batch 64 --predict rtx4090",
    "scaling": f"scaling {M}:TinyCNN --batch 1,2,8",
    "training": "training resnet18 --freeze conv1,bn1 --depth 1",
    "summary": "summary samples/digit_cnn.pth",
    "compare": f"compare {M}:TinyCNN resnet18 --by layer --depth 1",
    "check": f"check {M}:TinyCNN --max-params 2k",
    "models": "models convnext_*tiny*",
    "identify": "identify samples/digit_cnn.pth",
    "diff": "diff samples/digit_cnn.pth samples/digit_vit.pth",
    "scan": "scan samples",
    "keys": f"keys samples/tiny_ddp.pth --arch {M}:TinyCNN --all",
    "repair": f"repair samples/tiny_ddp.pth --arch {M}:TinyCNN",
    "convert": "convert samples/digit_cnn.pth -o out.safetensors",
    "diverge": f"diverge {M}:TinyCNN {M}:TinyCNN --set-b classes=7",
    "health": "health samples/tiny_ddp.pth",
    "images": "images samples/digit_a.png samples/shapes.png",
    "predict": f"predict {DIGITS} --image samples/digit_a.png --top 3",
    "cam": f"cam {DIGITS} --method gradcam,layercam",
    "attention": f"attention {M}:DigitViT --weights samples/digit_vit.pth --image samples/digit_b.png --blocks 0",
    "features": f"features {DIGITS} --layers features.?,head",
    "guide": "guide",
    "schema": "schema params",
}
MEASURED = ("diverge", "health", "predict", "cam", "attention", "features", "identify", "profile", "images")
"""Commands whose figures come from floating-point arithmetic, which differs in its last digits between machines."""

ELSEWHERE = {
    "flops", "params", "buffers", "reconcile",  # test_commands.py and cost/other_tools/test_comparison.py
    "report",  # the answers of these commands, one below the other
    "env", "index", "cache",  # this machine alone
    "sweep",  # its rows are JSON lines
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("name", LINES)
def test_screen(
    name: str, width: int, golden: Callable[[str, str], None], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    if name == "scan":
        bring_samples(tmp_path)
    else:
        (tmp_path / "samples").symlink_to(ROOT / "samples")
    answer = CommandLine(capsys)(*LINES[name].split())
    assert answer.code in (0, 1), answer.err
    assert "\x1b" not in answer.out
    if name != "schema":
        assert max(map(cell_len, answer.out.splitlines())) <= width
    text = answer.out.replace(str(ROOT), "ROOT").replace(str(tmp_path), "TMP")
    golden(f"terminal/{name}.{width}.txt", re.sub(r"\d", "0", text) if name in MEASURED else text)


def test_every_command_has_its_screens() -> None:
    assert {line.split()[0] for line in LINES.values()} | ELSEWHERE >= {name for name, *_ in COMMANDS}
