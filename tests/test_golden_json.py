"""The JSON of every command on small models, weight files and images, held against `tests/golden/json`.

`pytest tests/test_golden_json.py --update-golden` writes what the commands print now. Read the diff: a value may only
change on purpose. `env` (versions of what is installed) is left out; floats may differ by 0.1 %.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint.seeds import SEEDS
from tests.conftest import GOLDEN
from tests.samples import ROOT, bring_samples
from tests.sampling import sampled

OLDER = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13)


def slug(kind: str) -> str:
    """The name of a kind of weight file as a word of a command line."""
    return re.sub(r"\W", "_", kind)


M = "samples/models.py"
DIGITS = f"{M}:DigitCNN --weights samples/digit_cnn.pth --image samples/digit_b.png"
CASES: dict[str, str] = {
    # What a model costs
    "flops.cnn": f"flops {M}:TinyCNN",
    "flops.attention.operator": f"flops {M}:TinyAttention --by operator",
    "flops.experts.kind": f"flops {M}:TinyExperts --by kind",
    "flops.shared.call": f"flops {M}:Shared --by call",
    "flops.tagger.inputs": f"flops {M}:Tagger --inputs-from {M}:tagger_inputs",
    "flops.resnet18.half": "flops resnet18 --depth 2 --batch 8 --dtype bfloat16",
    "flops.swin_t": "flops swin_t --depth 1 --top 9",
    "flops.timm": "flops timm:test_vit --input 160",
    "flops.timm.fused": "flops timm:repghostnet_050 --fused --depth 1",
    "flops.file": f"flops samples/digit_cnn.pth --arch {M}:DigitCNN",
    "flops.causal": f"flops {M}:TinyAttention --causal exact --depth 1",
    "flops.detector": "flops fasterrcnn_mobilenet_v3_large_320_fpn --depth 0 --input 320",
    **{
        f"flops.convention.{name}": f"flops {M}:TinyAttention --convention {name} --depth 1"
        for name in ("torchvision", "torch", "fvcore", "thop", "torchinfo", "ptflops", "ptflops-aten")
    },
    "scaling.size": "scaling timm:test_vit --input 160,192",
    "scaling.batch": f"scaling {M}:TinyCNN --batch 1,2,8",
    "training.cnn": f"training {M}:TinyCNN",
    "training.attention": f"training {M}:TinyAttention --by operator --optimizer adamw",
    "training.frozen": "training resnet18 --freeze conv1,bn1,layer[12].* --depth 1 --optimizer sgd-momentum",
    "profile.predict": f"profile {M}:TinyAttention --batch 64 --predict rtx4090",
    "trace": f"trace {M}:TinyCNN",
    "graph": f"graph {M}:TinyCNN",
    "report": f"report {M}:TinyCNN --sizes 64,96",
    "report.image": f"report {DIGITS} --input 1x64x64",
    "graph.attention": f"graph {M}:TinyAttention --depth 1",
    "memory.inference": "memory resnet18 --device cuda --input 64",
    "memory.train": f"memory {M}:TinyCNN --train --optimizer adam --device cuda --batch 4",
    "memory.batches": f"memory {M}:TinyCNN --batch 1,4 --device cuda",
    "memory.plan": "memory resnet18 --input 64 --batch 64 --train --optimizer adam --device cuda --context 0B "
    "--plan 300MiB",
    "memory.fits": f"memory {M}:TinyCNN --fits 3GiB --device cuda",
    "summary.structured": f"summary {M}:Structured --columns class,input,output,params,calls,flops,bytes,arguments",
    "summary.recursive": f"summary {M}:Recursive",
    "summary.unused": f"summary {M}:Unused --no-fold",
    "summary.timm": "summary timm:test_vit --depth 3",
    "params.cnn": f"params {M}:TinyCNN --set classes=3",
    "params.frozen": "params resnet18 --depth 1 --freeze conv1,layer[12].*",
    "params.groups": "params resnet18 --groups --lr fc.*=1e-2",
    "params.init": f"params {M}:TinyCNN --init",
    "buffers.attention": f"buffers {M}:TinyAttention",
    "buffers.resnet18": "buffers resnet18 --all",
    "models": "models convnext_*tiny*",
    "compare": f"compare {M}:TinyCNN resnet18 --by layer --depth 1",
    "check": f"check {M}:TinyCNN --max-params 2k",
    "diverge": f"diverge {M}:TinyCNN {M}:TinyCNN --set-b classes=7 --train",
    "health.run": f"health {M}:Unused --input 16x4",
    "health.file": "health samples/tiny_ddp.pth",
    "identify": "identify samples/digit_cnn.pth",
    # Weight files
    **{f"summary.{kind}": f"summary {{{kind}}} --all" for kind in map(slug, SEEDS)},
    **{f"scan.{kind}": f"scan {{{kind}}}" for kind in ("torch_zip", "whole", "pickle", "GGUF")},
    "summary.training_run": "summary samples/tiny_ddp.pth",
    "summary.branch": "summary samples/tiny_ddp.pth --branch state_dict_ema --all",
    "summary.stats": "summary samples/digit_cnn.pth --stats",
    "summary.verify": "summary samples/digit_vit.pth --verify",
    "summary.arch": f"summary samples/digit_cnn.pth --arch {M}:DigitCNN --depth 1",
    "scan.directory": "scan samples",
    "keys.training_run": f"keys samples/tiny_ddp.pth --arch {M}:TinyCNN --all",
    "keys.other": f"keys samples/digit_cnn.pth --arch {M}:DigitViT",
    "repair.plan": f"repair samples/tiny_ddp.pth --arch {M}:TinyCNN",
    "repair.written": "repair samples/tiny_ddp.pth --branch state_dict_ema --dtype bfloat16 -o {tmp}/fixed.safetensors",
    "diff.branches": "diff samples/tiny_ddp.pth samples/tiny_ddp.pth --branch state_dict --branch state_dict_ema",
    "diff.same": "diff samples/digit_cnn.pth samples/digit_cnn.pth",
    "convert": "convert samples/digit_cnn.pth -o {tmp}/out.safetensors",
    "convert.shards": "convert samples/digit_vit.pth -o {tmp}/shards.safetensors --shard-size 20kB",
    # What a model sees
    "features": f"features {DIGITS} --layers features.?,head",
    "features.written": f"features {DIGITS} --layers features.0 -o {{tmp}}/seen --save npz",
    "features.list": "features timm:test_vit --list",
    "images": "images samples/digit_a.png samples/shapes.png",
    "predict": f"predict {DIGITS} --image samples/digit_a.png --top 3",
    "predict.random": "predict timm:test_resnet --weights random --image samples/shapes.png",
    "cam": f"cam {DIGITS} --method gradcam,layercam",
    "cam.written": f"cam {DIGITS} -o {{tmp}}/maps",
    "attention": f"attention {M}:DigitViT --weights samples/digit_vit.pth --image samples/digit_b.png --blocks 0",
    "attention.query": f"attention {M}:DigitViT --weights samples/digit_vit.pth --image samples/digit_b.png "
    "--query 2,6 --blocks 0 -o {tmp}/attention",
}
VOLATILE = ("env", "environment", "storage")
"""`storage`: legacy files name a storage by an address in memory."""

SIZES = (
    "summary.TorchScript",
    "summary.whole_legacy",
    "summary.torch_legacy",
    "summary.pickle",
    "summary.torch_export",
)
"""Files that hold paths of sources, or addresses as keys of storages: their sizes differ from run to run.

Of the memory in a report only the names are compared: on a CPU it depends on the processor.
"""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The weight files of every format, with the same values in every run."""
    folder, paths = tmp_path_factory.mktemp("weights"), {}
    for kind, (name, save) in SEEDS.items():
        path = paths[slug(kind)] = folder / slug(kind) / name
        path.parent.mkdir()
        torch.manual_seed(0)
        save(path)
    return paths


def steady(value: Any, replaced: dict[str, str]) -> Any:
    """`value` without what differs from machine to machine: paths, versions, hashes of archives with random names."""
    if isinstance(value, dict):
        return {key: steady(item, replaced) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [steady(item, replaced) for item in value]
    if isinstance(value, str):
        value = value.replace("tests.checkpoint.seeds", "seeds")
        for text, name in replaced.items():
            value = value.replace(text, name)
        return re.sub(r"\d+\.\d+\.\d+(\.post\d+|\+\w+)?", "VERSION", value)
    return value


def without_sizes(value: Any) -> Any:
    """`value` with bytes of files and of code taken out."""
    text = re.sub(r'("size"|"value"): \d+|[\d,]+(?= bytes of)', r"\1: 0", json.dumps(value))
    return json.loads(text)


def compare(found: Any, expected: Any, where: str = "") -> None:
    """Raises AssertionError at the first value that differs."""
    assert type(found) is type(expected) or {type(found), type(expected)} == {int, float}, where
    if isinstance(found, dict):
        assert list(found) == list(expected), where
        for key, item in found.items():
            compare(item, expected[key], f"{where}.{key}")
    elif isinstance(found, list):
        assert len(found) == len(expected), where
        for at, (item, other) in enumerate(zip(found, expected, strict=True)):
            compare(item, other, f"{where}[{at}]")
    elif isinstance(found, float):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6), where
    else:
        assert found == expected, where


@pytest.mark.skipif(OLDER, reason="older releases write some of their own modules with other operators")
@pytest.mark.parametrize("name", sampled(list(CASES), 4, pytest.mark.zoo))
def test_json(
    name: str,
    run: Callable[..., Any],
    seeds: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "scan.directory":
        bring_samples(tmp_path)
    else:
        (tmp_path / "samples").symlink_to(ROOT / "samples")
    words = [word.format(tmp=tmp_path, **{k: str(p) for k, p in seeds.items()}) for word in CASES[name].split()]
    report = run(*words, "-f", "json")
    assert report.code in (0, 1), report.err
    folder = str(next(iter(seeds.values())).parents[1])
    found = steady(json.loads(report.out), {str(tmp_path.resolve()): "TMP", folder: "SEEDS", str(ROOT): "ROOT"})
    golden = GOLDEN / "json" / f"{name}.json"
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    expected = json.loads(golden.read_text(encoding="utf-8"))
    if "memory" in found and name.startswith("report"):
        found["memory"], expected["memory"] = sorted(found["memory"]), sorted(expected["memory"])
    if name in SIZES:
        found, expected = without_sizes(found), without_sizes(expected)
    compare(found, expected)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    from tests.command_line import CommandLine

    return CommandLine(capsys)


def test_there_is_a_case_of_every_command() -> None:
    from modelprobe.cli.app import COMMANDS

    used = {case.split()[0] for case in CASES.values()}
    # `env` and `index` show this machine alone, `sweep` its times; `reconcile` starts other tools; what `schema` prints
    # is held against the JSON of every other command: they have tests of their own.
    assert {name for name, *_ in COMMANDS} - used == {"cache", "env", "index", "reconcile", "guide", "schema", "sweep"}
    assert {path.stem for path in (GOLDEN / "json").iterdir()} == set(CASES)
