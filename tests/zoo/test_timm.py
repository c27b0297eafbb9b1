"""Every architecture of timm at its default input: no failure, nothing uncounted, the model's own parameter count."""

from __future__ import annotations

import pytest

from modelprobe.commands.subject import Question, build, record
from modelprobe.model.zoo import zoo_names

pytestmark = pytest.mark.zoo


@pytest.mark.parametrize("name", zoo_names().timm)
def test_counted_whole(name: str) -> None:
    subject = build(Question(f"timm:{name}"))
    found = record(subject)
    assert found.uncounted == ()
    assert found.macs > 0
    assert found.tree.parameter_count() == sum(parameter.numel() for parameter in subject.model.parameters())
    assert sum(op.macs for op in found.ops if op.kind == "unknown") == 0
