"""Command lines that cannot be answered: one line that names what is wrong, a hint, exit code 2, nothing on stdout."""

import pytest

from tests.command_line import SAMPLES, CommandLine, said

TARGETED = ["flops", "summary", "params", "buffers"]
EVERY = [*TARGETED, "models", "env"]


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.delenv("MODELPROBE_DEBUG", raising=False)
    return CommandLine(capsys)


def refused(cli, *arguments, code=2):
    answer = cli(*arguments)
    assert answer.code == code
    return said(answer)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flop", "there is no command 'flop' | did you mean flops?"),
        ("sumary", "there is no command 'sumary' | did you mean summary"),
        ("xyzzy", "there is no command 'xyzzy' | the commands are flops, training"),
        ("", "there is no command '' | the commands are"),
    ],
)
def test_a_command(cli, name, expected):
    assert expected in refused(cli, name, "resnet18")


@pytest.mark.parametrize("command", TARGETED)
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("resnet5", "no model of torchvision or timm is called 'resnet5' | did you mean resnet50"),
        ("timm:resnet5", "no model of timm is called 'resnet5' | did you mean"),
        ("torchvision:vit_base_patch16_224", "torchvision has no model 'vit_base_patch16_224', timm has"),
        ("", "no target was given | for example resnet50"),
        ("no_such_file.py:Net", "there is no file no_such_file.py | "),
        ("no_such_module.x:Net", "there is no module 'no_such_module' | it was looked for"),
        ("a b:c", "'a b' is neither a file nor the name of a module | a target is a zoo name"),
        ("some/where/net", "there is no file some/where/net | check the path"),
        ("~nobody_at_all/net.py:Net", "there is no file ~nobody_at_all/net.py | check the path"),
        ("n" * 5000, "cannot be looked up: File name too long | check the path"),
        ("[red]x[red]", "no model of torchvision or timm is called '[red]x[red]' | "),
        ("a\x1b[31m\nb\u202e", r"is called 'a\x1b[31m\nb\u202e' | "),
        ("\udcff\udcfe", r"is called '\udcff\udcfe' | "),
        (f"{SAMPLES}:TinyCCN", "models.py has no 'TinyCCN' | it has: TinyCNN"),
    ],
)
def test_a_target(cli, command, target, expected):
    assert expected in refused(cli, command, target)


def test_a_directory_and_a_file_without_its_suffix(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").touch()
    assert ". is a directory | name a file in it, such as net.py:Net" in refused(cli, "flops", ".")
    assert "there is no file net | did you mean net.py?" in refused(cli, "flops", "net")
    assert "there is no file ./net | did you mean ./net.py?" in refused(cli, "flops", "./net")


def test_a_pattern_of_models(cli):
    assert refused(cli, "models", "resnet5x").startswith("no model matches 'resnet5x' | nearest: resnet50")
    assert "no model matches '[' | `modelprobe models` lists all families" in refused(cli, "models", "[")
    assert r"no model matches '\udcff' | " in refused(cli, "models", "\udcff")


@pytest.mark.parametrize("command", EVERY)
def test_a_format(cli, command):
    target = ["resnet18"] if command in TARGETED else []
    expected = "unknown format 'yaml' | choose one of terminal, json, jsonl, csv, markdown, html"
    assert refused(cli, command, *target, "-f", "yaml") == expected


@pytest.mark.parametrize("command", EVERY)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("there.json", "there.json exists | --force replaces it"),
        ("folder", "folder is a directory | name a file in it"),
        ("folder.json", "folder.json is a directory | name a file in it"),
        ("none/out.json", "none | make it first, or choose another place"),
        ("there.json/out.json", "there is no directory"),
        ("out.xyz", "the suffix '.xyz' of 'out.xyz' names no format | use one of .txt, .json"),
        ("out", "'out', which has no suffix, names no format | use one of .txt, .json"),
    ],
)
def test_a_place_for_the_report(cli, command, name, expected, tmp_path):
    (tmp_path / "there.json").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.json").mkdir()
    target = ["resnet18"] if command in TARGETED else []
    assert expected in refused(cli, command, *target, "-o", str(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "folder.json", "there.json"]
    assert (tmp_path / "there.json").read_text() == "mine"


@pytest.mark.parametrize("command", TARGETED)
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("flaot16", "there is no dtype 'flaot16' | did you mean float16"),
        ("nope", "there is no dtype 'nope' | choose one of float32, float64, float16, bfloat16"),
        ("int8", "--dtype int8 is not one that weights can have here | choose one of float32"),
        ("complex64", "--dtype complex64 is not one that weights can have here"),
        ("float8_e4m3fn", "--dtype float8_e4m3fn is not one that weights can have here"),
    ],
)
def test_a_dtype_is_refused_before_anything_is_built(cli, command, dtype, expected):
    # Nobody looks for the file: what stands on the command line comes first.
    assert expected in refused(cli, command, "no_such_file.py:Net", "--dtype", dtype)


@pytest.mark.parametrize("command", ["flops", "summary"])
@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("gpu", "there is no device 'gpu' | here are cpu, meta (where nothing is computed)"),
        ("", "there is no device '' | here are cpu"),
        ("cuda:99", "--device cuda:99 cannot be used: "),
        ("xla", "--device xla cannot be used: this torch was built without it | here are cpu"),
    ],
)
def test_a_device(cli, command, device, expected):
    assert expected in refused(cli, command, "resnet18", "--device", device)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["summary", "--columns", "clas"], "summary has no column 'clas' | columns: class"),
        (["summary", "--columns", ","], "no column is named | columns: class, input, output"),
        (["flops", "--by", "modul"], "--by 'modul' is not known | choose one of module, operator, kind, call"),
        (["flops", "--by", ""], "--by '' is not known"),
        (
            ["params", "--freeze", "layr1.*"],
            "the pattern 'layr1.*' matches no module and no parameter | nearest: layer1",
        ),
        (["params", "--freeze", "conv1,["], "the pattern '[' matches no module and no parameter | nearest: "),
        (["params", "--freeze", ""], "'' holds no pattern | name modules or parameters"),
        (["flops", "--depth", "-1"], "invalid value for '--depth' / '-d'"),
        (["flops", "--depth", "x"], "invalid value for '--depth' / '-d'"),
        (["flops", "--top", "0"], "invalid value for '--top' / '-n'"),
        (["flops", "--batch", "0"], "--batch 0: a batch has at least one example"),
        (["flops", "--batch", "1e3"], "--batch '1e3' is not a number of examples"),
        (["flops", "--batch", "99999999999999999999"], "the input asks for more than 2**40 elements"),
        (["buffers", "--device", "cpu"], "no such option: --device"),
        (["flops", "more"], "unexpected extra argument"),
        (["flops", "--set"], "'--set' requires an argument | modelprobe flops --help shows what it takes"),
    ],
)
def test_an_option(cli, arguments, expected):
    command, *rest = arguments
    assert expected in refused(cli, command, "resnet18", *rest)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", "--input '' has no shape"),
        ("x", "--input 'x': a size is missing beside an x"),
        ("224x", "--input '224x': a size is missing beside an x"),
        ("224,224", "sizes are separated by x, not by commas"),
        ("3x-1x224", "sizes cannot be negative"),
        ("0", "a size of 0 leaves nothing to look at"),
        ("1e3", "'1e3' is not a size"),
        ("2.5", "'2.5' is not a size"),
        ("999999999x999999999", "asks for more than 2**40 elements"),
        ("224:", "--input '224:' names no dtype after the colon"),
        ("224:float31", "there is no dtype 'float31' | did you mean float32"),
        ("=224", "'' cannot be the name of an argument"),
        ("1x=224", "'1x' cannot be the name of an argument"),
        ("a=b=1", "is not name=SHAPE:dtype"),
        ("y=1x3x224x224", "forward has no argument 'y' | it takes: x"),
        ("\x1b[31m", r"'\x1b[31m' is not a size"),
    ],
)
@pytest.mark.parametrize("command", ["flops", "summary", "buffers"])
def test_an_input(cli, command, spec, expected):
    assert expected in refused(cli, command, "resnet18", "--input", spec)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "224", "--input", "224"], "2 inputs were given, forward takes 1 | it takes: x"),
        (["--input", "x=1x3x8x8", "--input", "x=1x3x8x8"], "--input x was given twice | leave one of the two out"),
        (["--input", "224", "--input", "x=1x3x8x8"], "x is given twice: by name, and by an input without one"),
        (["--input", "8x3x224x224", "--batch", "4"], "--batch 4 contradicts --input 8x3x224x224"),
        (["--set", "foo"], "--set 'foo' is not key=value | for example: --set num_classes=10"),
        (["--set", "=3"], "--set '=3' is not key=value"),
        (["--set", "num_clases=3"], "resnet18 has no argument 'num_clases' | it accepts: num_classes"),
        (["--set", "groups=1", "--set", "groups=2"], "--set groups was given twice | leave one of the two out"),
        (["--set", "weights=DEFAULT"], "--set weights would load weights | a cost does not depend on them"),
        (["--inputs-from", ""], "--inputs-from '' does not name a function | it must be file.py:make"),
        (["--inputs-from", "x.py"], "--inputs-from 'x.py' does not name a function"),
        (["--inputs-from", "no_such_file.py:make"], "there is no file no_such_file.py"),
        (["--inputs-from", "no_such_module:make"], "there is no module 'no_such_module'"),
        (["--inputs-from", f"{SAMPLES}:nope"], "models.py has no 'nope' | it has: tiny_resnet, tagger_inputs"),
        (["--inputs-from", f"{SAMPLES}:tagger_inputs"], "forward has no argument 'lengths' | it takes: x"),
        (["--inputs-from", f"{SAMPLES}:tagger_inputs", "--input", "8"], "--inputs-from says all of the input"),
    ],
)
def test_inputs_and_settings(cli, arguments, expected):
    assert expected in refused(cli, "flops", "resnet18", *arguments)


@pytest.mark.parametrize(
    ("target", "size", "expected"),
    [
        ("inception_v3", "20", "Inception3.maxpool2 raised RuntimeError on 1x192x1x1: "),
        ("resnet18", "0x0", " raised RuntimeError on 1x"),
        ("resnet18", "5x224x224", "conv1 is Conv2d(3, 64, kernel_size=(7, 7)"),
        ("resnet18", "224:int64", "its operands are float32 and int64, and have to be of one dtype"),
        ("vit_b_16", "100", "Input shape indivisible by patch size! | image_size=100 is from --input"),
        ("resnet18", "1x3x8x8x8", "Expected 3D (unbatched) or 4D (batched) input to conv2d"),
    ],
)
def test_a_size_that_the_model_cannot_take(cli, target, size, expected):
    assert expected in refused(cli, "flops", target, "--input", size, code=4)


@pytest.mark.parametrize(("target", "size"), [("resnet18", "1x1"), ("timm:vit_base_patch16_224", "225")])
def test_an_odd_size_that_it_does_take(cli, target, size):
    answer = cli("flops", target, "--input", size, "--depth", "0")
    assert (answer.code, answer.err) == (0, "")


def test_what_does_not_fit_in_memory(cli):
    # 3 x 200,000 x 200,000 x 4 bytes = 480 GB
    text = refused(cli, "flops", "resnet18", "--device", "cpu", "--input", "200000")
    assert "not enough memory on cpu for the input x: 1x3x200000x200000 float32: " in text
    assert "enforce fail" not in text
    assert "a smaller --input or --batch needs less" in text


@pytest.mark.parametrize("command", EVERY)
def test_debug_shows_the_traceback_before_the_line(cli, command):
    answer = cli(command, *(["resnet18"] if command in TARGETED else []), "-o", "out.xyz", "--debug")
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("Traceback (most recent call last):")
    assert answer.err.splitlines()[-2] == "error: the suffix '.xyz' of 'out.xyz' names no format"
