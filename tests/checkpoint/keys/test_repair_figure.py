"""The figure: 40 architectures x 14 manglings, each repaired to equal outputs or refused, and never repaired wrongly.

Beside them: networks whose own submodules are called like wrappers, the names of other libraries, and files from which
nobody can tell. `pytest -m zoo tests/checkpoint/keys/test_repair_figure.py` prints the sums. Nothing is downloaded;
`-s` shows what was refused and why.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from modelprobe.checkpoint.keys.draft import PlanOptions
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.errors import CheckFailed, ProbeError
from modelprobe.model.inputs.example import make_inputs
from modelprobe.model.target import resolve
from modelprobe.model.weights.equivalence import _flat
from modelprobe.model.weights.load import fit, load_state_dict_for, refusals
from modelprobe.model.weights.repair_result import repair
from tests.checkpoint.ambiguous import DOUBTFUL, REFUSED
from tests.checkpoint.keys.test_repair import SMALL
from tests.checkpoint.mangling import MANGLINGS, naive, randomised
from tests.command_line import SAMPLES
from tests.sampling import sampled

HERE = Path(__file__).parents[1]
ZOO = """
torchvision:resnet18 torchvision:squeezenet1_1 torchvision:shufflenet_v2_x0_5 torchvision:mobilenet_v2
torchvision:mobilenet_v3_small torchvision:mnasnet0_5 torchvision:efficientnet_b0 torchvision:regnet_x_400mf
torchvision:densenet121 torchvision:googlenet torchvision:swin_t torchvision:convnext_tiny
timm:test_vit timm:test_vit2 timm:test_resnet timm:test_byobnet timm:test_convnext timm:test_efficientnet
timm:resnet10t timm:mobilenetv3_small_050 timm:lcnet_050 timm:tinynet_e timm:efficientnet_lite0 timm:ghostnet_100
timm:levit_128s timm:deit_tiny_patch16_224 timm:deit_tiny_distilled_patch16_224 timm:vit_tiny_patch16_224
timm:cait_xxs24_224 timm:poolformer_s12 timm:edgenext_xx_small timm:mobilevit_xxs timm:convnext_atto timm:mixer_s32_224
timm:xcit_nano_12_p16_224
""".split()
ARCHITECTURES = [*SMALL, f"{SAMPLES}:TinyAttention", *ZOO]

PAIRS = {
    "torchvision:resnet18": "timm:resnet18",
    "torchvision:vgg11": "timm:vgg11",
    "torchvision:vgg11_bn": "timm:vgg11_bn",
    "torchvision:densenet121": "timm:densenet121",
    "torchvision:vit_b_16": "timm:vit_base_patch16_224",
    "torchvision:convnext_tiny": "timm:convnext_tiny",
    "torchvision:swin_t": "timm:swin_tiny_patch4_window7_224",
    "torchvision:efficientnet_b0": "timm:efficientnet_b0",
    "torchvision:mobilenet_v2": "timm:mobilenetv2_100",
    "torchvision:mobilenet_v3_small": "timm:mobilenetv3_small_100",
    "torchvision:regnet_x_400mf": "timm:regnetx_004_tv",
    "torchvision:regnet_y_400mf": "timm:regnety_004",
    "torchvision:mnasnet0_5": "timm:mnasnet_050",
    "torchvision:inception_v3": "timm:inception_v3",
}
"""The same network in both libraries."""

HUGGING = {
    "timm:vit_tiny_patch16_224": "vit",
    "timm:convnext_atto": "convnext_atto",
    "torchvision:resnet50": "resnet50",
    "timm:resnet50": "resnet50",
}
"""The same network under transformers' names."""

DIFFERENT = {"torchvision:mobilenet_v3_small": "and that is all the difference"}
"""Not the same function: the epsilons of the norms differ. Refused, both ways."""

DEAR = {"torchvision:swin_t", "torchvision:convnext_tiny"}
"""Pairs that the figure leaves to the slow tests."""


def outputs(model, inputs):
    args, kwargs = inputs
    with torch.no_grad():
        return _flat(model(*args, **kwargs))


def example(target, model, spec: str):
    """A small picture where the network takes one, else what it declares; and what comes out."""
    if spec in SMALL:
        return ((torch.rand(SMALL[spec]),), {}), None
    for asked in (["3x64x64"], []):
        inputs = make_inputs(target, asked, model=model).build("cpu", 0) if spec in ZOO or not asked else None
        try:
            if inputs is not None:
                return inputs, outputs(model, inputs)
        except (RuntimeError, AssertionError, ValueError):
            assert asked, spec
    raise AssertionError(spec)


def one(target, model, other, inputs, expected, mangled, path: Path) -> str:
    """What becomes of one mangled file: `equal`, `refused: why` or `WRONG: how`."""
    torch.save(mangled, path)
    for tensor in other.state_dict().values():
        tensor.zero_()
    try:
        state, _ = load_state_dict_for(other, path, target=target)
    except CheckFailed as refused:
        return f"refused: {refused.message.partition(': ')[2]}"
    return judged(model, other, state, inputs, expected)


def judged(model, other, state, inputs, expected) -> str:
    if not loads(other, state):
        return "WRONG: it does not load"
    mine = model.state_dict()
    if any(not torch.equal(value, mine[name]) for name, value in other.state_dict().items()):
        return "WRONG: other values"
    same = all(torch.equal(a, b) for a, b in zip(expected, outputs(other, inputs), strict=True))
    return "equal" if same else "WRONG: other outputs"


def written(target, model, other, inputs, expected, mangled, folder: Path) -> str:
    """The same by way of a new file, as `repair -o` writes it, loaded by torch alone."""
    torch.save(mangled, folder / "x.pth")
    try:
        repair(fit(open_checkpoint(folder / "x.pth"), target=target), folder / "new.pth", force=True)
    except CheckFailed as refused:
        return f"refused: {refused.message.partition(': ')[2]}"
    found = torch.load(folder / "new.pth")
    return judged(model, other, found.get("state_dict", found), inputs, expected)


def loads(model, state) -> bool:
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError, AttributeError):
        return False
    return True


def by_hand(model, other, inputs, expected, mangled) -> bool:
    """Whether what people write would have done."""
    return judged(model, other, naive(mangled), inputs, expected) == "equal"


def spelled(spec: str) -> str:
    return spec.rpartition("/")[2]


@pytest.fixture
def case(request):
    """An architecture with its inputs, its outputs, and a second build to load into."""
    spec = request.param
    target = resolve(spec)
    model = randomised(target.build("cpu").module)
    inputs, expected = example(target, model, spec)
    expected = expected or outputs(model, inputs)
    assert all(tensor.isfinite().all() and tensor.any() for tensor in expected)
    return spec, target, model, target.build("cpu", seed=1).module.eval(), inputs, expected


@pytest.mark.zoo
@pytest.mark.parametrize("case", sampled(ARCHITECTURES, 6), ids=spelled, indirect=True)
def test_architectures_by_manglings(case, tmp_path, record_property):
    """All must be repaired, but those that change nothing; one of them is written and loaded by torch."""
    spec, target, model, other, inputs, expected = case
    rest = model, other, inputs, expected
    chosen = list(MANGLINGS)[ARCHITECTURES.index(spec) % len(MANGLINGS)]
    found, naively = {}, 0
    for name, mangle in MANGLINGS.items():
        mangled = mangle(model.state_dict())
        naively += by_hand(*rest, mangled)
        found[name] = one(target, *rest, mangled, tmp_path / "x.pth")
        if name == chosen and found[name] == "equal":
            found[name] = written(target, *rest, mangled, tmp_path)
    record(record_property, "repairs: 40 architectures x 14 manglings", found, naively)
    assert set(found.values()) == {"equal"}, found


def record(record_property, what: str, found: dict[str, str], naively: int | None = None) -> None:
    counts = Counter(answer.partition(":")[0] for answer in found.values())
    figure = {"cases": len(found), "repaired": counts["equal"], "refused": counts["refused"], "wrong": counts["WRONG"]}
    record_property(f"figure {what}", figure | ({} if naively is None else {"naive repair right": naively}))
    assert not counts["WRONG"], found


@pytest.mark.zoo
@pytest.mark.parametrize("case", sampled(ARCHITECTURES, 6), ids=spelled, indirect=True)
def test_what_nobody_can_tell_is_refused(case, tmp_path, record_property):
    spec, target, model, other, inputs, expected = case
    found = {}
    for name, mangle in {**REFUSED, **DOUBTFUL}.items():
        mangled = mangle(model.state_dict())
        if mangled is not None:
            found[name] = one(target, model, other, inputs, expected, mangled, tmp_path / "x.pth")
    print(f"\n{spelled(spec)}: {found}")
    record(record_property, "ambiguous files", found)
    assert all(found[name].startswith("refused") for name in found if name in REFUSED)


def priced(items, cheap) -> list[object]:
    """The cheap ones for CI, the others for `-m slow`."""
    return [pytest.param(item, marks=pytest.mark.zoo if cheap(item) else pytest.mark.slow) for item in items]


QUICK = ("resnet18", "mobilenet_v3_small", "densenet121", "squeezenet1_1")


@pytest.mark.parametrize(
    "spec",
    priced([spec for spec in ZOO if spec.startswith("torchvision:")], lambda spec: spec.endswith(QUICK)),
    ids=spelled,
)
def test_submodules_that_are_called_like_wrappers(spec, tmp_path, record_property):
    """Every wrapper around a network that has `original_module.model.` before all its names."""
    target = resolve(f"{HERE / 'ambiguous.py'}:held", (f"spec={spec}",))
    model = randomised(target.build("cpu").module)
    other = target.build("cpu", seed=1).module.eval()
    inputs = (torch.rand(1, 3, 64, 64),), {}
    expected = outputs(model, inputs)
    found, naively = {}, 0
    for name, mangle in MANGLINGS.items():
        mangled = mangle(model.state_dict())
        naively += by_hand(model, other, inputs, expected, mangled)
        found[name] = one(target, model, other, inputs, expected, mangled, tmp_path / "x.pth")
    record(record_property, "submodules called module, model, net", found, naively)
    assert set(found.values()) == {"equal"}, found


def crossed(source, target, tmp_path, record_property, origin=None, options=None) -> str:
    """A file under the names of `source`, wrapped, for `target`: what becomes of it."""
    model = randomised(source.build("cpu").module)
    torch.save({f"module.{n}": v for n, v in model.state_dict().items()}, tmp_path / "x.pth")
    try:
        fitted = fit(open_checkpoint(tmp_path / "x.pth"), target=target, origin=origin, options=options)
    except ProbeError as error:
        pytest.fail(error.message)
    reasons = refusals(fitted)
    print(f"\n{source.spec} -> {target.spec}: {'refused: ' + reasons[0][0] if reasons else 'repaired'}"
          f"{f', relative difference {fitted.equivalence.relative:.1e}' if fitted.equivalence else ''}")  # fmt: skip
    answer = f"refused: {reasons[0][0]}" if reasons else same_outputs(source, model, target, tmp_path, origin, options)
    record(record_property, "names of another library", {"": answer})
    return answer


def same_outputs(source, model, target, tmp_path, origin, options) -> str:
    """Whether the repaired weights of the file itself give the outputs of the network that it was saved from."""
    other = target.build("cpu", seed=1).module.eval()
    state, _ = load_state_dict_for(other, tmp_path / "x.pth", target=target, origin=origin, options=options)
    other.load_state_dict(state, strict=True)
    (inputs, one), two = example(source, model, "zoo"), None
    one, two = one or outputs(model, inputs), outputs(other, inputs)
    known_difference = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, two, strict=True))
    return "equal" if known_difference < 1e-4 else f"WRONG: outputs differ by {known_difference:.1e}"


def both_ways(pairs):
    return [(a, b) if ahead else (b, a) for a, b in pairs for ahead in (True, False)]


def paired(pair) -> str:
    return f"{spelled(pair[0])} to {spelled(pair[1])}"


@pytest.mark.zoo
@pytest.mark.parametrize(
    "pair", both_ways(pair for pair in PAIRS.items() if pair[0] in ZOO and pair[0] not in DEAR), ids=paired
)
def test_the_other_library(pair, tmp_path, record_property):
    answer = crossed(*map(resolve, pair), tmp_path, record_property)
    told = next((text for spec, text in DIFFERENT.items() if spec in pair), "")
    assert answer == "equal" if not told else told in answer


@pytest.mark.slow
@pytest.mark.parametrize("pair", both_ways([p for p in PAIRS.items() if p[0] not in ZOO or p[0] in DEAR]), ids=paired)
def test_the_other_library_at_length(pair, tmp_path, record_property):
    plain = [resolve(spec, ("aux_logits=false",) if spec == "torchvision:inception_v3" else ()) for spec in pair]
    assert crossed(*plain, tmp_path, record_property) == "equal"


@pytest.mark.parametrize("pair", priced(both_ways(HUGGING.items()), lambda pair: "50" not in pair[1]), ids=paired)
def test_transformers_names(pair, tmp_path, record_property):
    """With the file's own network, which is proof; without, by names that are known, or where the order alone would
    settle it, refused.
    """
    source, target = (resolve(spec if ":" in spec else f"{HERE / 'hugging.py'}:{spec}") for spec in pair)
    options = PlanOptions(inputs=("224" if "vit" in str(pair) else "64",))
    assert crossed(source, target, tmp_path, record_property, source, options) == "equal"
    if "hugging" in source.spec:
        fitted = fit(open_checkpoint(tmp_path / "x.pth"), target=target, options=options)
        if "resnet" in target.spec:
            assert "outputs could not be compared" in refusals(fitted)[0][0]
        else:
            assert crossed(source, target, tmp_path, record_property) == "equal"
        fitted = fit(open_checkpoint(tmp_path / "x.pth"), target=target, options=PlanOptions(unproven=True))
        assert not refusals(fitted)
