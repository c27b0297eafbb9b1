"""A model of the user's own: loaded from a file or a module, with nothing left behind and every failure in one line."""

import copy
import pickle
import sys

import pytest
import torch
from torch import nn

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.model.target import resolve
from modelprobe.report.blocks import Level

NET = """
import sys
import torch
from torch import nn

from layers import Block
from .layers import Block as Relative

print("imported", __name__ == "__main__", len(sys.argv))


class Net(nn.Module):
    def __init__(self, width=8, act="relu"):
        super().__init__()
        print("building")
        self.conv = nn.Conv2d(3, width, 3)
        self.block = Block()
        self.act = act

    def forward(self, x):
        return self.block(self.conv(x))


class Needs(nn.Module):
    def __init__(self, width, depth, *, bias):
        super().__init__()


class Outer:
    class Inner(nn.Module):
        pass


class NeedsValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.scale = self.linear.weight.abs().sum().item()


class Bad(nn.Module):
    def __init__(self):
        raise ValueError("width must\\nbe even")


class Exits(nn.Module):
    def __init__(self):
        sys.exit(3)


def make(features=4) -> nn.Module:
    return nn.Linear(features, 2)


def pair():
    return Net(), Net()


def text():
    return "x"


number = 3
model = nn.Linear(5, 2)
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "layers.py").write_text("from torch import nn\n\n\nclass Block(nn.Identity):\n    pass\n")
    return tmp_path / "net.py"


def message(spec, *settings, error=BadInput):
    with pytest.raises(error) as caught:
        resolve(str(spec), settings).build()
    assert "\n" not in caught.value.message + caught.value.hint
    return f"{caught.value.message} | {caught.value.hint}"


def test_a_class_of_a_file(net, capsys):
    before = list(sys.path), list(sys.argv), sys.dont_write_bytecode
    target = resolve(f"{net}:Net", ["width=4", "act=gelu"])
    module = target.build("meta").module
    assert (target.name, target.origin) == ("Net", "python file")
    assert module.conv.out_channels == 4
    assert module.act == "gelu"
    assert module.conv.weight.is_meta
    assert (list(sys.path), list(sys.argv), sys.dont_write_bytecode) == before
    assert not list(net.parent.rglob("*.pyc"))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "imported False 1\nbuilding\n"


def test_its_classes_can_be_copied_and_pickled(net):
    module = resolve(f"{net}:Net").build("cpu").module
    assert copy.deepcopy(module).conv.weight.equal(module.conv.weight)
    assert pickle.loads(pickle.dumps(module)).conv.weight.equal(module.conv.weight)


def test_two_folders_keep_their_own_neighbours(tmp_path):
    for folder, width in (("a", 3), ("b", 7)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "neighbour.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / folder / "net.py").write_text(
            "from torch import nn\n\n\ndef make():\n    import neighbour\n\n    return nn.Linear(neighbour.WIDTH, 1)\n"
        )
    first, second = (resolve(f"{tmp_path / folder / 'net.py'}:make") for folder in ("a", "b"))
    widths = [target.build().module.in_features for target in (first, second, first)]
    assert widths == [3, 7, 3]


def test_a_file_inside_a_package(tmp_path):
    package = tmp_path / "probed_package" / "nets"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package.parent / "sizes.py").write_text("WIDTH = 6\n")
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text(
        "from torch import nn\nfrom ..sizes import WIDTH\n\n\nclass Net(nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(WIDTH, 1)\n"
    )
    assert resolve(f"{package / 'net.py'}:Net").build().module.in_features == 6
    assert str(tmp_path) not in sys.path


def test_a_module_of_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "probed_module.py").write_text(
        "from torch import nn\n\n\nclass Outer:\n    class Inner(nn.Identity):\n        pass\n"
    )
    monkeypatch.chdir(tmp_path)
    target = resolve("probed_module:Outer.Inner")
    assert (target.name, target.origin) == ("Outer.Inner", "import")
    assert isinstance(target.build().module, nn.Identity)
    assert "there is no module 'probed_nothing'" in message("probed_nothing.deep:Net")
    assert "probed_module has no 'Net'" in message("probed_module:Net")


@pytest.mark.zoo
def test_a_class_of_an_installed_package():
    module = resolve("torch.nn:Linear", ["in_features=3", "out_features=4"]).build().module
    assert (module.in_features, module.out_features) == (3, 4)
    assert "it has: Linear(in_features, out_features), " in message("torch.nn:Linearr")


def test_a_nested_class_a_factory_and_an_instance(net):
    assert type(resolve(f"{net}:Outer.Inner").build().module).__name__ == "Inner"
    assert resolve(f"{net}:make", ["features=9"]).build().module.in_features == 9
    target = resolve(f"{net}:model")
    module = target.build("meta").module
    assert not module.weight.is_meta
    assert module is target.build("cpu").module
    assert [note.text for note in target.notes] == [
        "model is a model already built: its own weights and device are used"
    ]


def test_what_needs_values_is_built_for_real_and_says_so(net):
    built = resolve(f"{net}:NeedsValues").build("meta")
    assert not built.module.linear.weight.is_meta
    assert "NeedsValues was built for real on the CPU: on meta its constructor raised" in built.notes[0].text
    assert built.notes[0].level is Level.INFO
    again = resolve(f"{net}:NeedsValues").build("cpu").module
    assert torch.equal(again.linear.weight, built.module.linear.weight)  # both from seed 0


def test_a_file_alone(tmp_path):
    file = tmp_path / "one.py"
    file.write_text("from torch import nn\n\n\nclass Net(nn.Identity):\n    pass\n\n\ndef helper(x):\n    return x\n")
    target = resolve(str(file))
    assert target.name == "Net"
    assert [note.text for note in target.notes] == ["one.py:Net was taken, the only model in the file"]
    file.write_text("from torch import nn\n\n\ndef build():\n    return nn.Identity()\n")
    assert resolve(str(file)).name == "build"
    file.write_text("from torch import nn\nx = 1\n")
    assert "one.py defines no torch.nn.Module and no factory" in message(file)


def test_a_file_alone_that_has_several_lists_them(net):
    text = message(net)
    assert text.startswith(
        "net.py has several: Net, NeedsValues, Bad, Exits, make, model, Needs(width, depth, bias), pair"
    )
    assert "for example net.py:Net" in text
    assert "Block" not in text


def test_the_nearest_attribute_comes_first(net):
    assert "net.py has no 'Nedes' | it has: Needs(width, depth, bias), " in message(f"{net}:Nedes")


@pytest.mark.parametrize(
    ("attribute", "settings", "expected"),
    [
        ("Needs", (), "Needs.__init__ needs: width, depth, bias | --set width=... --set depth=... --set bias=..."),
        ("Needs", ("width=1",), "Needs.__init__ needs: depth, bias"),
        ("Net", ("widht=1",), "Net.__init__ has no argument 'widht' | it accepts: width, act"),
        ("make", ("x=1",), "make has no argument 'x' | it accepts: features"),
        ("model", ("x=1",), "model is a model already built: --set x comes too late"),
        ("pair", (), "pair returned tuple of Net, Net, not a torch.nn.Module | write a function that returns the one"),
        ("text", (), "text returned str, not a torch.nn.Module"),
        ("number", (), "net.py:number is of type int, not a torch.nn.Module or a function"),
    ],
)
def test_what_does_not_fit(net, attribute, settings, expected):
    assert expected in message(f"{net}:{attribute}", *settings)


def test_a_constructor_that_raises_is_named_with_its_line(net):
    line = NET.splitlines().index('        raise ValueError("width must\\nbe even")') + 1
    expected = f"building Bad failed: net.py:{line} in "
    text = message(f"{net}:Bad", error=ModelRaised)
    assert text.startswith(expected)
    assert "ValueError: width must be even" in text
    assert "sys.exit(3) was called" in message(f"{net}:Exits", error=ModelRaised)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1\ny = x / 0\n", "bad.py:2 in <module>: ZeroDivisionError: division by zero"),
        ("x = 1\ndef f(:\n", "bad.py:2: SyntaxError"),
        ("import sys\nsys.exit('bye')\n", "bad.py:2 in <module>: sys.exit('bye') was called"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' | install no_such_module"),
        ("def f():\n    raise KeyError('k')\n\n\nf()\n", "bad.py:2 in f: KeyError: 'k'"),
    ],
)
def test_a_file_that_raises_while_it_is_imported(tmp_path, source, expected):
    (tmp_path / "bad.py").write_text(source)
    before = set(sys.modules)
    assert expected in message(f"{tmp_path / 'bad.py'}:Net", error=ModelRaised)
    assert not [name for name in set(sys.modules) - before if "modelprobe" in name]


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    assert f"there is no file {tmp_path / 'none.py'}" in message(f"{tmp_path / 'none.py'}:Net")
    (tmp_path / "folder.py").mkdir()
    assert "is a directory" in message(f"{tmp_path / 'folder.py'}:Net")
    file = tmp_path / "secret.py"
    file.write_text("")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(file), "open", refuse)
    assert "secret.py cannot be read: Permission denied" in message(f"{file}:Net")


def test_ctrl_c_is_not_swallowed(tmp_path):
    (tmp_path / "stop.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        resolve(f"{tmp_path / 'stop.py'}:Net")
