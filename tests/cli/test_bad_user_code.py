"""What a user's own Python can do wrong, at import, while building and in forward: one line that says where."""

import os

import pytest

from tests.command_line import SAMPLES, CommandLine, said

NET = """
import os, sys
import torch
from torch import nn

print("printed at import")
os.write(1, b"printed past Python\\n")  # as child processes and C++ do


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(width, 2)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        return self.fc(x)


class Prints(Net):
    def __init__(self):
        super().__init__()
        print("printed while built")

    def forward(self, x):
        print("printed in forward")
        return super().forward(x)


class Two(Net):
    def forward(self, x, y):
        return self.fc(x) + y


class Needs(nn.Module):
    def __init__(self, width, heads):
        super().__init__()


class NoSuper(nn.Module):
    def __init__(self):
        self.fc = nn.Linear(2, 2)


class Nothing(nn.Module):
    def forward(self):
        return torch.ones(3)


class NoForward(Net):
    forward = nn.Module.forward


class Outer(Net):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"[red]": Raises()})

    def forward(self, x):
        return self.inner["[red]"](self.fc(x))


class Raises(Net):
    def forward(self, x):
        raise ValueError("boom [red]x[/red] \\x1b[31m\\nsecond \\u202e line")


class Asserts(Net):
    def forward(self, x):
        assert x.shape[1] == 5


class Recurses(Net):
    def forward(self, x):
        return self(x)


class Exits(Net):
    def forward(self, x):
        sys.exit(0)


class Skips(Net):
    def forward(self, x):
        raise GeneratorExit


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Muted(Net):
    def forward(self, x):
        raise Mute


class Interrupted(Net):
    def forward(self, x):
        raise KeyboardInterrupt


class Inverse(Net):
    def forward(self, x):
        half = self.fc(x).bfloat16()
        return torch.linalg.inv(half.T @ half)


def make_text():
    return "x"


def make_class():
    return Net


def make_width(width):
    return Net(width)


def make_error():
    return 1 / 0


def make_exit():
    sys.exit("bye")


def make_interrupted():
    raise KeyboardInterrupt


def no_inputs():
    return ()


def object_inputs():
    return object()


def text_inputs():
    return ("x",)


def raising_inputs():
    raise OSError("no data")


def inputs_of(n):
    return n


number = 3
"""
PRINTED = ("printed at import", "printed past Python", "printed while built", "printed in forward")
IN_FORWARD = {"Raises", "Asserts", "Exits", "Skips", "Muted", "Inverse", "Outer"}


@pytest.fixture
def cli(capsys):
    return CommandLine(capsys)


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def refused(cli, code, *arguments):
    answer = cli(*map(str, arguments))
    assert answer.code == code, answer
    return said(answer, PRINTED)


@pytest.mark.parametrize("command", ["flops", "params"])
@pytest.mark.parametrize(
    ("source", "code", "expected"),
    [
        (b"", 2, "bad.py has no 'Net' | it defines no torch.nn.Module and no factory"),
        (b"\x00\x01\x02", 4, "Error: source code"),  # a ValueError before Python 3.11.4
        (b"x = '\xff'\n", 4, "bad.py:1: SyntaxError: (unicode error) 'utf-8' codec can't decode byte 0xff"),
        (b"x = 1\ndef f(:\n", 4, "bad.py failed: bad.py:2: SyntaxError: invalid syntax"),
        (b"def f():\n    return {}['k']\nf()\n", 4, "bad.py:2 in f: KeyError: 'k' | --debug shows the traceback"),
        (b"raise RuntimeError('a [red] \\x1b[31m\\nb')", 4, r"RuntimeError: a [red] \x1b[31m b | "),
        (b"import sys\nsys.exit(0)\n", 4, "bad.py:2 in <module>: sys.exit(0) was called | "),
        (b"def f(n):\n    return f(n + 1)\nf(0)\n", 4, "bad.py:2 in f: RecursionError: maximum recursion depth"),
        (b"class Stop(BaseException): pass\nraise Stop('odd')\n", 4, "bad.py:2 in <module>: Stop: odd | "),
        (b"import no_such_module\n", 4, "No module named 'no_such_module' | install no_such_module"),
    ],
)
def test_a_file_that_cannot_be_imported(cli, tmp_path, command, source, code, expected):
    (tmp_path / "bad.py").write_bytes(source)
    assert expected in refused(cli, code, command, f"{tmp_path / 'bad.py'}:Net")


def test_files_that_are_none(cli, tmp_path, net):
    (tmp_path / "folder.py").mkdir()
    assert "folder.py is a directory, not a Python file | " in refused(cli, 2, "flops", f"{tmp_path / 'folder.py'}:Net")
    assert "none.py | Python files there: folder.py, net.py" in refused(cli, 2, "flops", f"{tmp_path / 'none.py'}:Net")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(cli, net):
    net.chmod(0)
    assert "cannot be read: Permission denied | check its permissions" in refused(cli, 2, "flops", f"{net}:Net")


@pytest.mark.parametrize("command", ["flops", "params"])
@pytest.mark.parametrize(
    ("attribute", "code", "expected"),
    [
        ("Needs", 2, "Needs.__init__ needs: width, heads | --set width=... --set heads=..."),
        ("make_width", 2, "make_width needs: width | --set width=..."),
        ("make_text", 2, "make_text returned str, not a torch.nn.Module | it must return one torch.nn.Module"),
        (
            "make_class",
            2,
            "make_class returned the class Net, not a torch.nn.Module | name the class itself: net.py:Net",
        ),
        ("make_error", 4, " in make_error: ZeroDivisionError: division by zero | --debug shows the traceback"),
        ("make_exit", 4, " in make_exit: sys.exit('bye') was called"),
        ("NoSuper", 4, "AttributeError: cannot assign module before Module.__init__() call"),
        ("number", 2, "net.py:number is of type int, not a torch.nn.Module or a function | there are: Net"),
        ("Net.fc", 2, "net.py has no 'Net.fc' | it has: Net"),
        ("\udcff", 2, r"net.py has no '\udcff' | it has: "),
    ],
)
def test_what_gives_no_model(cli, net, command, attribute, code, expected):
    assert expected in refused(cli, code, command, f"{net}:{attribute}")


@pytest.mark.parametrize("command", ["flops", "summary"])
@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("Outer", r"Outer.inner.[red] raised ValueError on 1x2: boom [red]x[/red] \x1b[31m second \u202e line | "),
        ("Raises", "Raises raised ValueError on 1x4: boom"),
        ("Asserts", "Asserts raised AssertionError on 1x4 | "),
        ("Recurses", "Recurses raised RecursionError on 1x4: maximum recursion depth exceeded"),
        ("Exits", "Exits raised SystemExit on 1x4: sys.exit(0) was called | "),
        ("Skips", "Skips raised GeneratorExit on 1x4 | "),
        ("Muted", "Muted raised Mute on 1x4 | "),
        ("NoForward", 'Module [NoForward] is missing the required "forward" function'),
        ("Inverse", "Inverse raised RuntimeError on 1x4: linalg.inv: Low precision dtypes not supported"),
    ],
)
def test_a_forward_that_raises(cli, net, command, attribute, expected):
    text = refused(cli, 4, command, f"{net}:{attribute}", "--input", "1x4")
    assert expected in text
    assert "the model was given 1x4: " in text
    assert text.endswith("; --debug shows the traceback")
    if attribute in IN_FORWARD:
        assert "it was raised at net.py:" in text
        assert ".forward; " in text or " in forward; " in text


def test_a_layer_that_does_not_fit_the_one_before(cli):
    text = refused(cli, 4, "flops", f"{SAMPLES}:Broken", "--input", "1x4")
    assert text.startswith("Broken.second.0 raised RuntimeError on 1x8: mat1 and mat2 shapes cannot be multiplied")
    assert "second.0 is Linear(in_features=9, out_features=2, bias=True); the model was given 1x4" in text


@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
def test_an_input_of_a_dtype_that_the_layer_lacks(cli, net, device):
    text = refused(cli, 4, "flops", f"{net}:Net", "--input", "1x4:int64", *device)
    assert "Net.fc raised " in text
    assert "dtype" in text


def test_autocast_may_mix_dtypes(cli, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Linear):\n    def __init__(self):\n"
        "        super().__init__(4, 2)\n\n    def forward(self, x):\n"
        "        with torch.autocast('cpu', torch.bfloat16):\n            return super().forward(x.bfloat16())\n"
    )
    for device in ("meta", "cpu"):
        answer = cli("flops", f"{tmp_path / 'net.py'}:Net", "--input", "x=1x4", "--device", device, "-f", "csv")
        assert (answer.code, answer.out.splitlines()[1].split(",")[4]) == (0, "8")  # 4 x 2 MACs


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["Two"], 2, "Two takes 2 inputs (x, y): say their shapes | for example --input x=1x16 --input y=1x16"),
        (["Two", "--input", "1x4"], 2, "forward also needs: y | for example --input y=1x16"),
        (["Nothing", "--input", "3"], 2, "1 input was given, forward takes 0 | it takes: nothing"),
        (["Nothing", "--batch", "3"], 2, "--batch 3: forward of Nothing takes no inputs | leave --batch out"),
        (["Net", "--inputs-from", "net.py:no_inputs"], 2, "forward also needs: x"),
        (["Net", "--inputs-from", "net.py:object_inputs"], 2, "gave something of type object, not inputs"),
        (["Net", "--inputs-from", "net.py:number"], 2, "gave something of type int, not inputs"),
        (
            ["Net", "--inputs-from", "net.py:inputs_of"],
            2,
            "inputs_of needs: n | --inputs-from calls it without arguments",
        ),
        (["Net", "--inputs-from", "net.py:raising_inputs"], 4, " in raising_inputs: OSError: no data | --debug"),
        (["Net", "--inputs-from", "net.py:make_exit"], 4, "sys.exit('bye') was called"),
        (["Net", "--inputs-from", "net.py:text_inputs"], 4, "raised TypeError on no tensors: linear()"),
    ],
)
def test_inputs_that_do_not_fit(cli, net, monkeypatch, arguments, code, expected):
    monkeypatch.chdir(net.parent)
    target, *rest = arguments
    assert expected in refused(cli, code, "flops", f"net.py:{target}", *rest)


def test_buffers_of_a_model_whose_forward_fails_are_listed_with_a_warning(cli, net):
    answer = cli("buffers", f"{net}:Raises", "--strict")
    assert answer.code == 3
    told = " ".join(answer.out.split())
    assert "Whether training changes a buffer was not observed: " in told
    assert "Raises raised ValueError" in told
    assert "seen" in answer.out


def test_buffers_of_an_input_that_was_asked_for_and_fails_are_an_error(cli, net):
    assert "Raises raised ValueError on 3x4" in refused(cli, 4, "buffers", f"{net}:Raises", "--input", "3x4")


@pytest.mark.parametrize("attribute", ["Interrupted", "make_interrupted", "interrupted_import"])
def test_ctrl_c_is_not_taken_for_an_error(cli, net, tmp_path, attribute):
    if attribute == "interrupted_import":
        net.write_text("raise KeyboardInterrupt\n")
    place = tmp_path / "out.json"
    answer = cli("flops", f"{net}:{attribute}", "-o", str(place))
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.splitlines()[-1] == "interrupted"
    assert not place.exists()


def test_stdout_is_the_report_alone(net, capfd):
    # capfd, not capsys: the descriptor itself is looked at.
    from modelprobe.cli.app import main

    assert main(["params", f"{net}:Prints", "-f", "csv"]) == 0
    assert main(["flops", f"{net}:Prints", "-f", "csv"]) == 0
    out, err = capfd.readouterr()
    assert [line.partition(",")[0] for line in out.splitlines()] == ["depth", "0", "1", "depth", "0", "1"]
    assert set(PRINTED) <= set(err.splitlines())
    print("stdout is back")
    assert capfd.readouterr().out == "stdout is back\n"


@pytest.mark.zoo
def test_names_that_a_terminal_or_a_browser_would_obey(cli, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        for name in ['[red]a[/red]', 'b\\x1b[31m\\nc\\u202e', '日本', '=cmd|x', '\\udcff', '<script>x']:\n"
        "            self.add_module(name, nn.Linear(2, 2))\n\n    def forward(self, x):\n"
        "        for module in self.children():\n            x = module(x)\n        return x\n"
    )
    for command in ("flops", "summary", "params", "buffers"):
        for format in ("terminal", "json", "csv", "markdown", "html"):
            answer = cli(command, f"{tmp_path / 'net.py'}:Net", "-f", format)
            assert answer.code == 0
            assert not {"\x1b", "\u202e", "\udcff"} & set(answer.out)
            assert "<script>x" not in answer.out.replace("'<script>x", "") or format in ("terminal", "json", "csv")
    table = cli("summary", f"{tmp_path / 'net.py'}:Net").out
    assert "├─ [red]a[/red]" in table
    assert r"├─ b\x1b[31m\nc\u202e" in table
    assert "├─ 日本" in table
