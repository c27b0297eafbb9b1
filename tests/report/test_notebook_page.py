"""A notebook executed and converted with both Jupyter templates: tables keep their form under their style sheets.

Needs nbconvert, ipykernel, playwright and an installed Chromium; skipped by name without one of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.graph.test_browser import CHROMIUM, browser

__all__ = ["browser"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

CELLS = (
    "import modelprobe, torch\nfrom torch import nn\nnet = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), "
    "nn.Flatten(), nn.Linear(7200, 10)))",
    "modelprobe.count_flops(net, (1, 3, 32, 32))",
    "modelprobe.count_params(net)",
    "modelprobe.trace(net, (1, 3, 32, 32))",
    "print(modelprobe.summarize(net, (1, 3, 32, 32)))",
)
STYLE = """() => [...document.querySelectorAll(".mp")].map(box => ({
  labels: [...box.querySelectorAll("dt")].map(label => {
    const style = getComputedStyle(label);
    const line = parseFloat(style.lineHeight) || 1.6 * parseFloat(style.fontSize);
    return [style.float, label.getBoundingClientRect().height, line];
  }),
  names: [...box.querySelectorAll("tbody th")].map(cell => {
    const text = document.createRange();
    text.selectNodeContents(cell);
    return [getComputedStyle(cell).textAlign, text.getBoundingClientRect().left - cell.getBoundingClientRect().left];
  }),
  wide: box.scrollWidth - box.clientWidth,
}))"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    formats = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    notebook = formats.v4.new_notebook(cells=[formats.v4.new_code_cell(text) for text in CELLS])
    root = Path(__file__).parents[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        client.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return notebook


@pytest.mark.parametrize("template", ["lab", "classic"])
def test_tables_keep_their_form(browser: Any, executed: Any, template: str, tmp_path: Path) -> None:
    converter = pytest.importorskip("nbconvert", reason="nbconvert is not installed")
    text, _ = converter.HTMLExporter(template_name=template).from_notebook_node(executed)
    path = tmp_path / f"{template}.html"
    path.write_text(text, encoding="utf-8")
    context = browser.new_context(viewport={"width": 1280, "height": 844}, offline=True)
    page = context.new_page()
    page.goto(path.as_uri(), wait_until="domcontentloaded")
    shown = page.evaluate(STYLE)
    page.screenshot(path=str(tmp_path / f"{template}.png"), full_page=True)
    body = page.inner_text("body")
    context.close()
    assert len(shown) == 3
    for box in shown:
        assert box["wide"] <= 1
        assert all(floats == "none" and height < 1.9 * line for floats, height, line in box["labels"])
        assert all(align in ("left", "start") for align, _ in box["names"])
    indents = [left for _, left in shown[0]["names"]]
    assert indents[:-1] == sorted(indents[:-1])
    assert indents[0] < indents[1] < indents[-1]
    assert "Sequential: summary" in body
    assert "├─" in body
