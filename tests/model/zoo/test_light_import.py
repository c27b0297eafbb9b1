"""torchvision imported the quick way is whole: torch._dynamo is the real one afterwards, detection operators work."""

from __future__ import annotations

import subprocess
import sys

import pytest

QUICK = """
import sys
from modelprobe.model.zoo import light_import
assert light_import.applies() == {applies}
models = light_import.import_torchvision_models()
assert ("torch._dynamo" in sys.modules) != {applies}, "torch._dynamo"
"""

WHOLE = """
import torch, torchvision
boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.], [20., 20., 30., 30.]])
assert torchvision.ops.nms(boxes, torch.tensor([.9, .8, .7]), .5).tolist() == [0, 2]
pooled = torchvision.ops.roi_align(torch.ones(1, 2, 32, 32), [boxes[:1]], (2, 2))
assert pooled.shape == (1, 2, 2, 2) and pooled.allclose(torch.ones(()))
import torch._dynamo.utils
assert torch._dynamo.utils.is_compile_supported.__module__ == "torch._dynamo.utils"
import sys
helper = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert helper("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
"""


def run(code: str) -> None:
    """Run `code` in a fresh interpreter, where nothing is imported yet."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_quick_and_whole() -> None:
    probe = "from modelprobe.model.zoo.light_import import applies; raise SystemExit(0 if applies() else 3)"
    if subprocess.run([sys.executable, "-c", probe], check=False).returncode == 3:
        pytest.skip("this torchvision has no such line")
    run(QUICK.format(applies=True) + WHOLE)


def test_plain_when_dynamo_is_there_already() -> None:
    run("import torch._dynamo\n" + QUICK.format(applies=False) + WHOLE)


def test_whatever_else_is_asked_for_comes_from_the_real_package() -> None:
    run(
        """
import sys
from modelprobe.model.zoo import light_import
with light_import._stand_in():
    from torch._dynamo.utils import is_compile_supported
    assert is_compile_supported is light_import._is_compile_supported
    from torch._dynamo.utils import counters  # which the stand-in does not have
    from torch._dynamo import config
    assert counters is sys.modules["torch._dynamo.utils"].counters
    assert config is sys.modules["torch._dynamo"].config
"""
        + QUICK.format(applies=False)
        + WHOLE
    )
