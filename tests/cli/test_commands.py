"""Every command on good input: what it prints to a person, and the numbers it gives to a program."""

import csv
import io
import json

import pytest

from modelprobe.cli.app import main
from tests.command_line import SAMPLES, CommandLine

FORMATS = {"terminal": ".txt", "json": ".json", "jsonl": ".jsonl", "csv": ".csv", "markdown": ".md", "html": ".html"}
CNN, ATTENTION = f"{SAMPLES}:TinyCNN", f"{SAMPLES}:TinyAttention"
TARGETED = ["flops", "summary", "params", "buffers"]

# TinyCNN on 1x3x32x32: 32 x 32 x 8 x 3 x 9 = 221,184; 16 x 16 x 16 x 8 x 9 = 294,912; 16 x 10 = 160.
CNN_MACS = 221_184 + 294_912 + 160
# 3 x 8 x 9; 2 x 8; 8 x 16 x 9 + 16; 16 x 10 + 10
CNN_PARAMETERS = 216 + 16 + 1168 + 170


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.delenv("MODELPROBE_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return CommandLine(capsys)


@pytest.fixture
def data(cli):
    """`data("flops", CNN)`: the JSON of a command line that must succeed."""

    def ask(*arguments):
        answer = cli(*arguments, "-f", "json")
        assert (answer.code, answer.err) == (0, "")
        return json.loads(answer.out)

    return ask


def rows(answer):
    return list(csv.DictReader(io.StringIO(answer.out)))


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("command", TARGETED)
@pytest.mark.parametrize("name", ["TinyCNN", "TinyAttention"])
def test_what_a_person_reads(cli, golden, monkeypatch, command, name, width):
    monkeypatch.setenv("COLUMNS", str(width))
    answer = cli(command, f"{SAMPLES}:{name}")
    assert answer.code == 0
    assert max(map(len, answer.out.splitlines())) <= width
    golden(f"{command}.{name}.{width}.txt", answer.out)


@pytest.mark.parametrize("command", TARGETED)
@pytest.mark.parametrize(("target", "format"), [*((CNN, format) for format in FORMATS), ("timm:test_vit", "json")])
def test_every_command_in_every_format(cli, command, target, format):
    answer = cli(command, target, "-f", format)
    assert answer.code == 0
    if format == "json":
        found = json.loads(answer.out)
        assert found["schema"] == f"modelprobe.{command}/1"
        assert {"modelprobe", "python", "torch", "target", "device", "seed"} <= set(found["env"])
        assert found["env"]["target"] == target
    elif format == "csv":
        assert len({len(row) for row in csv.reader(io.StringIO(answer.out))}) == 1
    elif format == "html":
        assert answer.out.startswith("<!doctype html>")
        assert "://" not in answer.out.replace("http://www.w3.org", "")
    else:
        assert answer.out.strip()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("arguments", [["models", "resnet1*"], ["env"]])
def test_the_commands_without_a_target(cli, arguments, format):
    answer = cli(*arguments, "-f", format)
    assert answer.code == 0
    if format == "json":
        found = json.loads(answer.out)
        assert found["schema"] == f"modelprobe.{arguments[0]}/{'2' if arguments[0] == 'models' else '1'}"
        assert {"modelprobe", "python", "torch"} <= set(found["env"])
    else:
        assert ("resnet18" if arguments[0] == "models" else "cpu") in answer.out


@pytest.mark.zoo
@pytest.mark.parametrize(("format", "suffix"), FORMATS.items())
def test_a_file_has_the_format_of_its_suffix(cli, tmp_path, format, suffix):
    place = tmp_path / f"report{suffix}"
    answer = cli("params", CNN, "-o", str(place))
    assert (answer.code, answer.out) == (0, "")
    assert answer.err.splitlines()[0] == f"wrote {place}"
    shown = cli("params", CNN, "-f", format).out
    assert place.read_text(encoding="utf-8") == shown
    assert cli("params", CNN, "-o", str(place)).code == 2
    assert cli("params", CNN, "-o", str(place), "--force").code == 0
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


@pytest.mark.zoo
def test_the_numbers_of_a_small_net(data):
    flops = data("flops", CNN, "--input", "32")
    assert (flops["macs"], flops["parameters"]) == (CNN_MACS, CNN_PARAMETERS)
    assert flops["flops"] == 2 * CNN_MACS + flops["elementwise_flops"]
    assert flops["uncounted"] == []
    summary = data("summary", CNN, "--input", "32")
    assert (summary["macs"], summary["parameters"], summary["buffers"]) == (CNN_MACS, CNN_PARAMETERS, 17)
    params = data("params", CNN)
    assert (params["total"], params["trainable"], params["frozen"]) == (CNN_PARAMETERS, CNN_PARAMETERS, 0)
    buffers = data("buffers", CNN)
    assert [row["path"].rpartition(".")[2] for row in buffers["rows"]] == [
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ]
    assert all(row["saved"] and row["changes"] for row in buffers["rows"])


@pytest.mark.parametrize(("target", "macs"), [("resnet50", 4_089_184_256), ("vit_b_16", 17_563_828_224)])
def test_the_published_numbers(data, target, macs):
    assert data("flops", target)["macs"] == macs


@pytest.mark.parametrize("target", [CNN, f"{SAMPLES}:Tagger", f"{SAMPLES}:Shared", "timm:test_vit"])
def test_meta_and_cpu_agree_and_a_batch_of_eight_is_eight_times_one(data, target):
    on_meta = data("flops", target, "--device", "meta")
    on_cpu = data("flops", target, "--device", "cpu")
    eight = data("flops", target, "--batch", "8")
    assert (on_meta["env"]["device"], on_cpu["env"]["device"]) == ("meta", "cpu")
    for key in ("macs", "flops", "activations", "operators"):
        assert on_meta[key] == on_cpu[key]
    assert (eight["macs"], eight["flops"]) == (8 * on_meta["macs"], 8 * on_meta["flops"])


def test_half_precision_costs_the_same_in_half_the_bytes(data):
    full, half = data("flops", CNN), data("flops", CNN, "--dtype", "bfloat16")
    assert (half["macs"], half["flops"]) == (full["macs"], full["flops"])
    assert half["inputs"] == ["x: 1x3x224x224 bfloat16"]
    assert data("params", CNN, "--dtype", "bfloat16")["nbytes"] == 2 * CNN_PARAMETERS


def test_settings_reach_the_constructor(data):
    # The head of 10 classes has 16 x 10 + 10 parameters, one of 3 has 16 x 3 + 3.
    found = data("params", CNN, "--set", "classes=3")
    assert found["total"] == CNN_PARAMETERS - 170 + 51
    assert found["env"]["settings"] == {"classes": 3}


def test_repeated_and_named_inputs(data):
    target = f"{SAMPLES}:Structured"
    named = data("flops", target, "--input", "ids=2x7:int64", "--input", "mask=2x7:bool")
    mixed = data("flops", target, "--input", "2x7:int64", "--input", "mask=2x7:bool")
    assert named["inputs"] == mixed["inputs"] == ["ids: 2x7 int64", "mask: 2x7 bool"]
    assert named["macs"] == mixed["macs"] == 2 * 7 * 8 * 2  # 14 positions, Linear(8, 2)


@pytest.mark.parametrize("command", ["flops", "summary"])
def test_inputs_from_a_function(data, command):
    found = data(command, f"{SAMPLES}:Tagger", "--inputs-from", f"{SAMPLES}:tagger_inputs")
    assert found["inputs"] == ["ids: 3x7 int64", "lengths: 3 int64"]
    # 13 words: two layers of two directions, 4 gates of 8 from 8 + 8 and from 16 + 8; the tags of 21 padded positions.
    assert found["macs"] == 13 * 2 * 4 * 8 * (8 + 8 + 16 + 8) + 21 * 16 * 5
    assert any(note["text"].startswith("Run for real on the CPU") for note in found["notes"])


@pytest.mark.zoo
@pytest.mark.parametrize("target", [f"{SAMPLES}:DataDependent", "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_what_needs_values_runs_on_the_cpu_and_says_so(cli, target):
    answer = cli("flops", target)
    assert answer.code == 0
    assert "warning: Run for real on the CPU with seeded random weights and input, not on" in answer.out


@pytest.mark.zoo
def test_strict_passes_what_is_certain_and_refuses_what_was_assumed(cli):
    assert cli("flops", "resnet18", "--strict").code == 0
    assert cli("flops", CNN, "--input", "1x3x32x32", "--strict").code == 0
    for command in ("flops", "summary"):
        answer = cli(command, CNN, "--strict")
        assert answer.code == 3
        assert answer.out.startswith("TinyCNN: ")
        assert answer.err.splitlines()[0].startswith("error: 1 note stands against this answer; the first: the input")
    assert cli("params", f"{SAMPLES}:Lazy", "--strict").code == 3


@pytest.mark.parametrize("command", ["flops", "summary", "params"])
def test_depth(data, command):
    key = {"flops": "rows", "summary": "layers", "params": "modules"}[command]
    lengths = [len(data(command, "resnet18", "--depth", str(depth))[key]) for depth in (0, 1, 2, 99)]
    assert lengths[0] == 1
    assert lengths == sorted(set(lengths))


@pytest.mark.parametrize("by", ["module", "operator", "kind", "call"])
def test_by_adds_up_to_the_same_total(data, by):
    found = data("flops", CNN, "--by", by)
    total = sum(row["macs"] for row in found["rows"] if row["depth"] == 0)
    assert total == found["macs"]
    top = data("flops", CNN, "--by", by, "--top", "2")
    assert len(top["rows"]) == 2
    assert top["rows"][0]["macs"] >= top["rows"][1]["macs"]
    assert top["hidden"] > 0


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ("features", 170),
        ("features.*", 170),
        ("features.0,head", CNN_PARAMETERS - 216 - 170),
        ("*.bias", CNN_PARAMETERS - 8 - 16 - 10),
        ("*", 0),
    ],
)
def test_freeze(data, patterns, left):
    assert data("params", CNN, "--freeze", patterns)["freeze"]["trainable"] == left


def test_columns_are_those_asked_for_once_and_in_order(cli):
    table = rows(cli("summary", CNN, "--columns", "MACs,params", "--columns", "macs", "-f", "csv"))
    assert [key for key in table[0] if key not in ("mark", "path")] == ["depth", "name", "macs", "parameters"]


def test_equal_blocks_are_folded_unless_told_otherwise(data):
    folded, whole = data("summary", ATTENTION, "--fold"), data("summary", ATTENTION)
    blocks = [layer for layer in folded["layers"] if layer["cls"] == "AttentionBlock"]
    assert [len(layer["folded"]) for layer in blocks] == [2]
    assert sum(layer["cls"] == "AttentionBlock" for layer in whole["layers"]) == 3


def test_a_run_of_blocks_is_named_by_its_numbers(cli):
    text = cli("summary", "vit_b_16").out
    assert "encoder_layer_0-11 x12" in text
    assert "never ran" not in text  # attention lends the weights of `out_proj` without calling it


@pytest.mark.zoo
def test_marks_of_shared_and_unused_modules(cli):
    shared = {command: cli(command, f"{SAMPLES}:Shared").out for command in ("flops", "summary", "params")}
    assert all("├─ b is a " in text for text in shared.values())
    unused = cli("summary", f"{SAMPLES}:Unused").out
    assert "├─ never never ran" in unused
    assert "biases never ran" not in unused


def test_lazy_parameters_are_not_silently_nothing(cli):
    text = " ".join(cli("params", f"{SAMPLES}:Lazy").out.split())
    assert "warning: 4 parameters of lazy modules have no size before a forward pass and count as 0 here" in text


def test_an_ascii_stdout_gets_a_tree_of_ascii(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["flops", CNN]) == 0
    text = stream.buffer.getvalue().decode("ascii")
    assert "|- features" in text
    assert "`- head" in text


@pytest.mark.zoo
def test_models_are_found_by_wildcard(data):
    found = data("models", "vit_b_*")
    assert {model["origin"] for model in found["models"]} == {"torchvision"}
    assert [model["name"] for model in found["models"]] == ["vit_b_16", "vit_b_32"]
    assert len(data("models")["models"]) > 1000
