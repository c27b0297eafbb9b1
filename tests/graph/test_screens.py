"""Pages as a person sees them, beside pictures that somebody has looked at: at 1280 and 390 pixels, light and dark.

`pytest -m slow tests/graph/test_screens.py --update-golden` writes the pictures. Look at them. Fonts differ between
machines: pictures are compared coarsely, for boxes, colours and places.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageStat
from torch import nn

from modelprobe import count_flops, trace
from modelprobe.graph.build import graph_of
from modelprobe.graph.files import content_of
from modelprobe.graph.overview.gather import overview_of
from modelprobe.graph.overview.page import overview_page
from modelprobe.report.formats import RENDERERS, Style
from tests.graph.test_browser import CHROMIUM, browser

__all__ = ["browser"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

SCREENS = Path(__file__).parents[1] / "golden" / "screens"
HEIGHT = 844
COARSE = 16
"""Pixels across a square whose mean colour is compared."""

MEAN_APART, SQUARE_APART, SQUARES = 4.0, 40, 0.03
"""Of 255: how far two pictures may be in the mean, and from where on a square is another one; how many may be."""


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


def network(width: int = 16) -> nn.Module:
    stages = nn.Sequential(*[Residual(width) for _ in range(3)])
    return nn.Sequential(nn.Conv2d(3, width, 3), stages, nn.Flatten(), nn.Linear(width * 900, 10))


def graph_page() -> str:
    return str(content_of(graph_of(trace(network(), torch.zeros(1, 3, 32, 32))), ".html", None, False))


def two_graphs() -> str:
    first, second = (graph_of(trace(network(width), torch.zeros(1, 3, 32, 32))) for width in (16, 24))
    return str(content_of(first, ".html", None, False, beside=second))


def report_page() -> str:
    return overview_page(overview_of(trace(network(), torch.zeros(1, 3, 32, 32))))


def flops_page() -> str:
    return RENDERERS["html"].render(count_flops(network(), torch.zeros(1, 3, 32, 32)).report(), Style())


PAGES: dict[str, Callable[[], str]] = {
    "graph": graph_page, "two-graphs": two_graphs, "report": report_page, "flops": flops_page,
}  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("pages")
    for name, page in PAGES.items():
        (place / f"{name}.html").write_text(page(), encoding="utf-8")
    return {name: place / f"{name}.html" for name in PAGES}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_screen(
    browser: Any, pages: dict[str, Path], name: str, width: int, dark: bool, tmp_path: Path, request: Any
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(pages[name].as_uri())
    if name != "flops":
        page.wait_for_selector(".graph[data-ready=yes]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    golden, shown = SCREENS / f"{name}.{width}.{'dark' if dark else 'light'}.png", tmp_path / "shown.png"
    page.screenshot(path=str(shown))
    context.close()
    assert not said
    if request.config.getoption("--update-golden"):
        SCREENS.mkdir(parents=True, exist_ok=True)
        Image.open(shown).convert("RGB").quantize(64).save(golden, optimize=True)
    assert golden.exists(), f"no picture {golden.name}: run with --update-golden, and look at it"
    assert_alike(Image.open(golden), Image.open(shown))


def assert_alike(golden: Image.Image, shown: Image.Image) -> None:
    assert golden.size == shown.size
    small = (golden.width // COARSE, golden.height // COARSE)
    one, other = (picture.convert("RGB").resize(small, Image.Resampling.BOX) for picture in (golden, shown))
    apart = ImageChops.difference(one, other)
    assert max(ImageStat.Stat(apart).mean) <= MEAN_APART
    worst = [max(pixel) for pixel in apart.getdata()]
    assert sum(value > SQUARE_APART for value in worst) <= SQUARES * len(worst)


def test_another_picture_is_seen() -> None:
    page = Image.new("RGB", (320, 320), "white")
    moved = page.copy()
    moved.paste((30, 60, 200), (0, 0, 96, 96))
    assert_alike(page, page.copy())
    with pytest.raises(AssertionError):
        assert_alike(page, moved)
