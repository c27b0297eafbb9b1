"""The pages in a real browser: how long they take, no error on the console, and no name of a model runs as script."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelprobe import trace
from modelprobe.graph.build import graph_of
from modelprobe.graph.files import content_of
from modelprobe.graph.overview.gather import overview_of
from modelprobe.graph.overview.page import overview_page
from modelprobe.graph.page import page_of_two
from tests.graph.test_hostile_names import hostile_graph, hostile_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

OPENS, EXPANDS, SEARCHES = 1000, 200, 100
"""Milliseconds that a model of 5,000 operators may take; each is the best of three."""

EXPAND = """document.querySelector(".graph rect.module:not(.opened)")
  .dispatchEvent(new MouseEvent("dblclick", {bubbles: true}))"""
SEARCH = (
    "const box = document.querySelector('.graph input'); box.value = 'linear'; box.dispatchEvent(new Event('input'))"
)


class Block(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.linear = nn.Linear(8 + number % 7, 8 + (number + 1) % 7)
        self.norm = nn.LayerNorm(8 + (number + 1) % 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x)).relu() + 1


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def shown(browser: Any, path: Path, width: int = 1280, dark: bool = False) -> tuple[Any, list[str]]:
    """The page, and what it complained about."""
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light", bypass_csp=False
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: said.append(asked.url) if asked.url != path.as_uri() else None)
    page.goto(path.as_uri())
    page.wait_for_selector(".graph[data-ready=yes]")
    return page, said


def test_five_thousand_operators(browser: Any, tmp_path: Path) -> None:
    stages = [nn.Sequential(*[Block(25 * stage + at) for at in range(25)]) for stage in range(50)]
    run = trace(nn.Sequential(*stages), torch.zeros(1, 8))
    assert len(run.ops) == 5000
    path = tmp_path / "large.html"
    path.write_text(str(content_of(graph_of(run, fold=False), ".html", None, False)), encoding="utf-8")
    times: dict[str, list[float]] = {"opens": [], "expands": [], "searches": []}
    for _ in range(3):
        page, said = shown(browser, path)
        times["opens"].append(page.evaluate("performance.now()"))
        times["expands"].append(acted(page, EXPAND))
        times["searches"].append(acted(page, SEARCH))
        assert page.locator(".graph rect").count() > 60
        assert page.locator(".found li").count() == 40
        assert not said
        page.context.close()
    best = {name: min(values) for name, values in times.items()}
    assert best["opens"] <= OPENS, best
    assert best["expands"] <= EXPANDS, best
    assert best["searches"] <= SEARCHES, best


def acted(page: Any, act: str) -> float:
    """Milliseconds until what `act` does is on the screen."""
    body = f"""() => new Promise(done => {{ const start = performance.now(); {act};
      requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start))) }})"""
    return float(page.evaluate(body))


def test_no_name_runs_as_script(browser: Any, tmp_path: Path) -> None:
    graph, report = tmp_path / "graph.html", tmp_path / "report.html"
    graph.write_text(str(content_of(hostile_graph(), ".html", None, False)), encoding="utf-8")
    report.write_text(overview_page(overview_of(trace(hostile_model(), torch.zeros(1, 2)))), encoding="utf-8")
    for path in (graph, report):
        page, said = shown(browser, path)
        page.locator(".graph input[type=search]").first.fill("script")
        page.locator(".found li").first.click()
        assert page.evaluate("window.hit") is None
        assert page.locator("img").count() == 0
        assert not said


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_at_every_width(browser: Any, tmp_path: Path, width: int, dark: bool) -> None:
    run = trace(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16)), torch.zeros(4, 8))
    path = tmp_path / "report.html"
    path.write_text(overview_page(overview_of(run)), encoding="utf-8")
    page, said = shown(browser, path, width, dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".icicle .cells button").count() > 2
    page.locator(".icicle select").select_option("parameters")
    assert "176 parameters" in page.locator(".icicle output").inner_text()
    page.locator(".icicle .cells button", has_text="0").first.click()
    assert "144 parameters" in page.locator(".icicle output").inner_text()
    page.locator("button.all").click()
    assert page.locator("details.part[open]").count() == 0
    page.locator("button.copy").click()
    page.locator("button.copy", has_text="Copied").wait_for(timeout=5000)
    assert not said


def test_two_models_are_chosen_together(browser: Any, tmp_path: Path) -> None:
    nets = [nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, width))) for width in (4, 6)]
    graphs = [graph_of(trace(net, torch.zeros(1, 8))) for net in nets]
    path = tmp_path / "two.html"
    path.write_text(page_of_two((graphs[0], graphs[1]), ([0], [0])), encoding="utf-8")
    page, said = shown(browser, path)
    first, second = (page.locator(".graph").nth(at) for at in range(2))
    for side, other, figure in ((first, second, "54"), (second, first, "36")):
        side.locator("input").fill("1.1")
        side.locator(".found li").first.click()
        assert side.locator("aside h2").inner_text() == other.locator("aside h2").inner_text() == "1 Linear"
        assert figure in other.locator("aside").inner_text()
        assert other.locator("rect.picked").count() == 1
    assert "parameters 36 | 54" in first.locator("aside").inner_text()
    assert not said
