"""`features`: figures, images, files, and what happens when a directory, an image or a layer is not as hoped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modelprobe.files import atomic
from modelprobe.files.directory import file_name
from tests.command_line import SAMPLES, CommandLine, said
from tests.samples import ROOT

CNN = f"{SAMPLES}:TinyCNN"
SHAPES = str(ROOT / "samples" / "shapes.png")
SMALL = ("--resize", "32x32", "--no-crop")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return CommandLine(capsys)


def features(cli: CommandLine, *more: str, image: str = SHAPES, layers: str = "features.0,features.2") -> dict:
    answer = cli("features", CNN, "--layers", layers, "--image", image, *SMALL, *more, "-f", "json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def by_hand(*layers: str) -> dict[str, torch.Tensor]:
    """What a hook of one's own sees of the same image, made by hand."""
    from tests.samples import models

    torch.manual_seed(0)
    net = models.TinyCNN().eval()
    seen: dict[str, torch.Tensor] = {}
    for name in layers:
        net.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: seen.update({name: out.clone()}))
    picture = Image.open(SHAPES).resize((32, 32), Image.Resampling.BILINEAR)
    with torch.no_grad():
        net(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255)
    return seen


@pytest.mark.zoo
@pytest.mark.parametrize("format", ["npz", "safetensors", "pt"])
def test_saved_tensors_are_those_of_a_hook_by_hand(cli: CommandLine, format: str) -> None:
    features(cli, "-o", "out", "--save", format)
    path = Path("out/shapes") / f"features.{format}"
    if format == "npz":
        found = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    elif format == "pt":
        found = torch.load(path)
    else:
        from safetensors.torch import load_file

        found = load_file(path)
    expected = by_hand("features.0", "features.2")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_figures_are_those_of_the_tensor(cli: CommandLine) -> None:
    layer = features(cli)["layers"][1]
    values = by_hand("features.2")["features.2"].numpy().astype(np.float64)
    stats = layer["stats"]
    assert layer["shape"] == [1, 8, 32, 32]
    assert layer["layout"] == "NCHW"
    assert stats["count"] == values.size
    assert stats["zeros"] == (values == 0).sum() > 0
    assert stats["mean"] == pytest.approx(values.mean(), rel=1e-5)
    assert stats["std"] == pytest.approx(values.std(), rel=1e-5)
    assert (stats["min"], stats["max"]) == (values.min(), pytest.approx(values.max()))
    assert stats["dead_channels"] == [c for c in range(8) if not values[0, c].any()]


@pytest.mark.zoo
def test_everything_is_written_and_the_page_links_to_it(cli: CommandLine) -> None:
    found = features(cli, "-o", "out", "--channels", "4", "--sort", "variance", "--cmap", "jet", layers="*")
    files = {str(path.relative_to("out")) for path in Path("out").rglob("*.png")}
    drawn = {one["path"] for layer in found["pictures"][0]["layers"] for one in layer["drawn"]}
    assert drawn | {"shapes/seen.png"} == files
    assert {name for name in drawn if "features.0." in name} == {
        "shapes/features.0.grid.png", "shapes/features.0.mean.png", "shapes/features.0.overlay.png",
    }  # fmt: skip
    assert "shapes/head.strip.png" in drawn
    page = Path("out/index.html").read_text()
    assert all(f'src="{name}"' in page for name in files)
    sizes = {Image.open(Path("out") / name).size for name in drawn if name.endswith(("mean.png", "overlay.png"))}
    assert len(sizes) == 1


@pytest.mark.zoo
def test_an_interrupted_run_goes_on(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        Image.new("RGB", (40, 40), (80 * number, 9, 9)).save(f"{number}.png")
    real, count = atomic.atomic_write, [0]

    def dies(path: Path, data: bytes | str, *, force: bool = False) -> None:
        count[0] += 1
        if count[0] == 13:
            raise KeyboardInterrupt
        real(path, data, force=force)

    monkeypatch.setattr("modelprobe.files.directory.atomic_write", dies)
    command = ("features", CNN, "--layers", "features.0", "--image", "*.png", *SMALL, "-o", "out", "-f", "json",
               "--batch", "1")  # fmt: skip
    assert cli(*command).code == 130
    monkeypatch.setattr("modelprobe.files.directory.atomic_write", real)
    assert not list(Path("out").rglob("*.tmp"))
    before = Path("out/0/features.0.grid.png").stat().st_mtime_ns
    answer = cli(*command)
    found = json.loads(answer.out)
    assert [picture["resumed"] for picture in found["pictures"]] == [True, True, False]
    assert Path("out/0/features.0.grid.png").stat().st_mtime_ns == before
    whole = json.loads(cli(*command, "--force").out)
    assert not any(picture["resumed"] for picture in whole["pictures"])
    assert whole["layers"] == found["layers"]
    Image.new("RGB", (40, 40), (1, 2, 3)).save("1.png")  # an image that changed is looked at again
    again = json.loads(cli(*command).out)
    assert [picture["resumed"] for picture in again["pictures"]] == [True, False, True]


@pytest.mark.zoo
def test_weights_that_changed_are_looked_at_anew(cli: CommandLine) -> None:
    import torch

    from samples.models import TinyCNN

    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(TinyCNN().state_dict(), "weights.pth")
        command = ("features", CNN, "--weights", "weights.pth", "--layers", "head", "--image", SHAPES, *SMALL)
        found = json.loads(cli(*command, "-o", "out", "-f", "json").out)
        assert [picture["resumed"] for picture in found["pictures"]] == [False]
    again = json.loads(cli(*command, "-o", "out", "-f", "json").out)
    assert [picture["resumed"] for picture in again["pictures"]] == [True]


@pytest.mark.zoo
def test_one_bad_picture_does_not_stop_the_rest(cli: CommandLine) -> None:
    Path("bad.png").write_bytes(b"no picture")
    Image.new("L", (50, 40), 7).save("good.png")
    answer = cli("features", CNN, "--layers", "head", "--image", ".", *SMALL, "-o", "out", "-f", "json")
    found = json.loads(answer.out)
    assert answer.code == 0
    assert ["no image that Pillow can read" in p["error"] for p in found["pictures"]] == [True, False]
    assert any("1 image was left out" in note["text"] for note in found["notes"])
    assert any("good.png: gray, given to the model as three equal" in note["text"] for note in found["notes"])
    assert cli("features", CNN, "--layers", "head", "--image", ".", *SMALL, "--strict").code == 3
    Path("good.png").unlink()
    assert "bad.png is no image" in said(cli("features", CNN, "--layers", "head", "--image", ".", *SMALL))
    Path("worse.png").write_bytes(b"")
    assert "none of 2 images" in said(cli("features", CNN, "--layers", "head", "--image", ".", *SMALL))


@pytest.mark.zoo
def test_nothing_of_others_is_touched(cli: CommandLine) -> None:
    Path("out").mkdir()
    Path("out/index.html").write_text("mine")
    command = ("features", CNN, "--layers", "head", "--image", SHAPES, *SMALL, "-o", "out")
    assert "the directory out exists and holds another file, index.html" in said(cli(*command))
    assert [path.name for path in Path("out").iterdir()] == ["index.html"]
    Path("out/notes.txt").write_text("mine too")
    assert cli(*command, "--force").code == 0
    assert Path("out/notes.txt").read_text() == "mine too"
    other = ("features", CNN, "--layers", "features.0", "--image", SHAPES, *SMALL, "-o", "out")
    assert "holds the images of another command line" in said(cli(*other))
    Path("file").write_text("")
    assert "file is a file" in said(cli(*command[:-1], "file"))
    assert "cannot" in said(cli(*command[:-1], "file/b"))
    assert cli(*command[:-1], "a/b/c").code == 0
    assert Path("a/b/c/index.html").is_file()


def test_a_full_disk(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("modelprobe.files.atomic.os.fsync", full)
    answer = cli("features", CNN, "--layers", "head", "--image", SHAPES, *SMALL, "-o", "out")
    assert "no space left on device" in said(answer)
    assert not Path("out").exists()


def test_a_disk_that_fills_up_later(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        Image.new("RGB", (40, 40), (80 * number, 9, 9)).save(f"{number}.png")
    real, count = os.fsync, [0]

    def full(descriptor: int) -> None:
        count[0] += 1
        if count[0] > 10:
            raise OSError(28, "no space left on device")
        real(descriptor)

    monkeypatch.setattr("modelprobe.files.atomic.os.fsync", full)
    answer = cli("features", CNN, "--layers", "features.0", "--image", "*.png", *SMALL, "-o", "out")
    assert "no space left on device" in said(answer)
    assert sorted(path.name for path in Path("out").iterdir()) == ["0", "modelprobe.json"]  # what was complete stays


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--layers", "features.9"), "TinyCNN has no layer 'features.9' | nearest: features.5, features.4"),
        ((), "which layers? --layers was not given | --list shows them"),
        (("--layers", "head", "--cmap", "virids"), "there is no color map 'virids' | did you mean viridis"),
        (("--layers", "head", "--sort", "size"), "--sort 'size' is not known"),
        (("--layers", "head", "--save", "h5", "-o", "out"), "--save 'h5' is not known"),
        (("--layers", "head", "--save", "npz"), "--save needs a directory"),
        (("--layers", "head", "--weights", "none.pth"), "--weights 'none.pth' is neither a file nor one of"),
        (("--layers", "head", "--image", "no.png"), "there is no image no.png"),
    ],
)
def test_bad_input(cli: CommandLine, arguments: tuple[str, ...], says: str) -> None:
    assert says in said(cli("features", CNN, *arguments))
    assert not list(Path().iterdir())


def test_layers_without_anything_to_show(cli: CommandLine) -> None:
    Path("net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Text(nn.Module):\n    def forward(self, x): return 'a'\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.conv, self.spare, self.text = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), Text()\n"
        "    def forward(self, x):\n        self.text(x)\n        return self.conv(x)\n"
    )
    assert "spare (Conv2d) never ran" in said(cli("features", "net.py:Net", "--layers", "spare", "--image", SHAPES))
    assert "text (Text) put out no tensor" in said(cli("features", "net.py:Net", "--layers", "text", "--image", SHAPES))
    answer = cli("features", "net.py:Net", "--layers", "*", "--image", SHAPES, "-f", "json")
    assert [layer["name"] for layer in json.loads(answer.out)["layers"]] == ["conv"]


@pytest.mark.zoo
def test_pictures_at_the_ends_of_what_is_possible(cli: CommandLine) -> None:
    Image.new("RGB", (1, 1), (9, 99, 9)).save("one.png")
    Image.new("L", (20_000, 30), 7).save("wide.png")
    answer = cli("features", CNN, "--layers", "features.0", "--image", "one.png", "--image", "wide.png")
    assert answer.code == 0
    said_once = " ".join(answer.out.split())
    assert "warning: one.png: only 1 x 1 pixels, enlarged 224 times." in said_once
    assert "wide.png: gray, given to the model as three equal channels." in said_once
    assert cli("features", CNN, "--layers", "features.0", "--image", "one.png", "--strict").code == 3


def test_without_a_picture_it_is_noise_and_says_so(cli: CommandLine) -> None:
    answer = cli("features", CNN, "--layers", "head", *SMALL)
    assert "No image was given: seeded noise" in answer.out
    assert cli("features", CNN, "--layers", "head", *SMALL).out == answer.out


def test_list(cli: CommandLine) -> None:
    answer = cli("features", f"{SAMPLES}:Shared", "--list", "-f", "csv")
    assert answer.out.splitlines()[:2] == ["layer,class,shape,layout,calls", "a,Linear,1x8,channels,3"]
    plain = cli("features", "timm:test_vit", "--list")
    assert "blocks.0.attn.q_norm" in plain.out
    assert "tokens 10x10 + 1" in plain.out


@pytest.mark.zoo
def test_what_a_person_reads(cli: CommandLine, golden, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (80, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        answer = cli("features", CNN, "--layers", "features.0,features.5,head", "--image", SHAPES, *SMALL, "-o", "out",
                     "--force")  # fmt: skip
        assert max(map(len, answer.out.splitlines())) <= width
        golden(f"features.TinyCNN.{width}.txt", answer.out.replace(SHAPES, "shapes.png"))


def test_file_names() -> None:
    taken: set[str] = set()
    assert [file_name(name, taken) for name in ("a", "A", "a/b", "../c", "encoder[1]")] == [
        "a", "A-2", "a_b", "_c", "encoder[1]",
    ]  # fmt: skip
    long = file_name("x" * 300, taken)
    assert len(long) == 80
    assert file_name("x" * 299, taken) != long


@pytest.mark.zoo
def test_the_pictures_of_the_readme_are_those_of_its_command(cli: CommandLine) -> None:
    samples = ROOT / "samples"
    answer = cli(
        "features", f"{SAMPLES}:DigitCNN", "--weights", str(samples / "digit_cnn.pth"), "--image",
        str(samples / "digit_a.png"), "--layers", "features.?", "-o", "seen",
    )  # fmt: skip
    assert answer.code == 0
    for name in ("features.0.grid.png", "features.3.overlay.png"):
        made, kept = (
            np.asarray(Image.open(place / name), dtype=int) for place in (Path("seen/digit_a"), samples / "seen")
        )
        assert made.shape == kept.shape
        assert np.abs(made - kept).mean() < 1


@pytest.mark.zoo
def test_what_is_read_from_sizes_is_said(cli):
    """A linear layer over positions: whether what it puts out are positions, the operator does not tell."""
    layer = "blocks.0.mlp_tokens.fc2"
    answer = cli("features", "timm:mixer_s32_224", "--weights", "random", "--layers", layer, "--image", SHAPES)
    assert answer.code == 0
    assert "tokens 7x7 (by size)" in cli("features", "timm:mixer_s32_224", "--list").out
    assert f"assumed: The rows and columns of {layer} could not be followed" in " ".join(answer.out.split())
