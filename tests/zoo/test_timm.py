"""Every architecture of timm at every input that its weights declare: no failure, nothing uncounted."""

from __future__ import annotations

import pytest
import timm
from timm.models import get_pretrained_cfg

from modelprobe.model.build import TargetRequest, load_model, record
from modelprobe.model.zoo.names import zoo_names
from tests.sampling import sampled

pytestmark = pytest.mark.zoo


@pytest.mark.parametrize("name", sampled(zoo_names().timm, 8))
def test_counted_whole(name: str) -> None:
    loaded = load_model(TargetRequest(f"timm:{name}"))
    found = record(loaded)
    assert found.uncounted == ()
    assert found.macs > 0
    assert found.tree.parameter_count() == sum(parameter.numel() for parameter in loaded.model.parameters())
    assert sum(op.macs for op in found.ops if op.kind == "unknown") == 0


def other_sizes() -> list[tuple[str, str]]:
    """(architecture, size) of weights trained or tested at another size than the architecture's default."""
    found: dict[tuple[str, str], None] = {}
    for tagged in timm.list_pretrained():
        name = tagged.partition(".")[0]
        usual, cfg = get_pretrained_cfg(name), get_pretrained_cfg(tagged)
        for size in (cfg.input_size, cfg.test_input_size):
            if size is not None and tuple(size) != tuple(usual.input_size):
                found[name, "x".join(map(str, size))] = None
    return list(found)


@pytest.mark.parametrize(("name", "size"), sampled(other_sizes(), 8))
def test_counted_at_every_declared_size(name: str, size: str) -> None:
    found = record(load_model(TargetRequest(f"timm:{name}", inputs=(size,))))
    assert found.uncounted == ()
    assert found.macs > 0
    assert f"1x{size}" in found.env["inputs"][0]
