"""Every form of 30 architectures is listed as torch itself says, down to strides and the kinds of tensors.

`pytest -m zoo tests/checkpoint/test_listing_zoo.py` prints how many forms were compared.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import ATTRIBUTE, BUFFER, PARAMETER, Checkpoint
from modelprobe.model.inputs.example import make_inputs
from modelprobe.model.target import resolve
from tests.checkpoint.test_listing import described, listed
from tests.command_line import SAMPLES
from tests.sampling import sampled

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

TIMM = """
test_vit test_vit2 test_vit3 test_resnet test_byobnet test_convnext test_convnext2 test_convnext3 test_efficientnet
test_efficientnet_gn test_efficientnet_ln test_nfnet mobilenetv3_small_050 lcnet_050 tinynet_e resnet10t
""".split()
TORCHVISION = """
resnet18 squeezenet1_1 shufflenet_v2_x0_5 mobilenet_v2 mobilenet_v3_small mnasnet0_5 efficientnet_b0 regnet_x_400mf
regnet_y_400mf googlenet swin_t convnext_tiny
""".split()
ARCHITECTURES = [
    f"{SAMPLES}:TinyCNN",
    f"{SAMPLES}:TinyAttention",
    *(f"torchvision:{name}" for name in TORCHVISION),
    *(f"timm:{name}" for name in TIMM),
]


def parts(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters and buffers under all their names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return parameters, dict(model.named_buffers(remove_duplicate=False))


def names(found: Checkpoint, role: str) -> set[str]:
    return {entry.name for entry in found.tensors if entry.role == role}


@pytest.fixture(params=sampled(ARCHITECTURES, 6), ids=lambda spec: spec.rpartition("/")[2])
def built(request):
    target = resolve(request.param)
    model = target.build("cpu").module.eval()
    return target, model


def test_there_are_thirty():
    assert len(set(ARCHITECTURES)) >= 30


def test_saved_by_torch(built, tmp_path: Path, record_property) -> None:
    """The state_dict and the whole module, new and legacy, protocols 2 to 5."""
    _, model = built
    path, forms = tmp_path / "m", 0
    state = model.state_dict()
    for legacy in (False, True):
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
        found = open_checkpoint(path)
        assert listed(found) == described(state)
        assert list(listed(found)) == list(state)
        assert not found.damaged
        forms += 1
    for protocol, legacy in ((2, False), (3, False), (4, False), (5, False), (2, True), (5, True)):
        torch.save(model, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
        same_module(open_checkpoint(path), model)
        forms += 1
    record_property("figure listed as torch says", {"forms": forms, "tensors": forms * len(state)})


def same_module(found: Checkpoint, model: nn.Module) -> None:
    parameters, buffers = parts(model)
    assert listed(found) == described({**parameters, **buffers})
    assert names(found, PARAMETER) == set(parameters)
    assert names(found, BUFFER) == set(buffers)
    left_out = {entry.name for entry in found.tensors if "non-persistent" in entry.flags}
    assert left_out == set(buffers) - set(model.state_dict())
    assert [".".join(module.path) for module in found.modules] == [
        name for name, _ in model.named_modules(remove_duplicate=False)
    ]
    assert [module.type.rpartition(".")[2] for module in found.modules] == [
        type(module).__name__ for _, module in model.named_modules(remove_duplicate=False)
    ]
    grads = {entry.name: entry.requires_grad for entry in found.tensors if entry.role == PARAMETER}
    assert grads == {name: parameter.requires_grad for name, parameter in parameters.items()}
    assert not found.damaged


def small_inputs(target, model: nn.Module) -> tuple[torch.Tensor, ...]:
    """What the model runs on, a smaller picture where it takes one."""
    for asked in (["3x64x64"], []):
        try:
            args, _ = make_inputs(target, asked, model=model).build("cpu", 0)
            with torch.no_grad():
                model(*args)
        except Exception:  # noqa: BLE001 - the next one is tried
            assert asked
            continue
        return args
    raise AssertionError


def test_torchscript(built, tmp_path: Path, record_property) -> None:
    target, model = built
    with torch.no_grad():
        torch.jit.trace(model, small_inputs(target, model), check_trace=False).save(str(tmp_path / "m"))
    found = open_checkpoint(tmp_path / "m")
    loaded = torch.jit.load(str(tmp_path / "m"))
    parameters, buffers = dict(loaded.named_parameters()), dict(loaded.named_buffers())
    held = {entry.name for entry in found.tensors if entry.role in (PARAMETER, BUFFER)}
    there = {name: value for name, value in listed(found).items() if name in held}
    assert {name: value for name, value in there.items() if name in loaded.state_dict()} == described(
        loaded.state_dict()
    )
    assert names(found, PARAMETER) == set(parameters)
    assert names(found, BUFFER) == set(buffers)
    assert not found.damaged
    record_property("figure listed as torch says", {"forms": 1, "tensors": len(parameters) + len(buffers)})


def test_exported(built, tmp_path: Path, record_property) -> None:
    target, model = built
    program = torch.export.export(model, small_inputs(target, model), strict=False)
    torch.export.save(program, tmp_path / "m.pt2")
    found = open_checkpoint(tmp_path / "m.pt2")
    signature = program.graph_signature
    state = dict(program.state_dict)
    there = {name: value[:2] for name, value in listed(found).items() if name in state}
    assert there == {name: value[:2] for name, value in described(state).items()}
    assert names(found, PARAMETER) == set(signature.parameters)
    newer = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 8)
    if newer:  # older archives keep the other tensors inside the program
        assert names(found, BUFFER) >= set(signature.buffers) - set(signature.non_persistent_buffers)
        assert names(found, BUFFER) <= set(signature.buffers)
    assert not names(found, ATTRIBUTE) & set(state)
    assert not found.damaged
    record_property("figure listed as torch says", {"forms": 1, "tensors": len(state)})
