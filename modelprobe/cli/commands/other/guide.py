"""`modelprobe guide`: the chapters of the guide, which come with the package."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

import modelprobe.guide
from modelprobe.cli.options import TARGET, ReportOptions
from modelprobe.console import is_terminal, style_of, write_text
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Column, Note, Report, Row, Table

EXAMPLES = (
    "modelprobe guide",
    "modelprobe guide cost",
)

ChapterArg = Annotated[
    str,
    typer.Argument(metavar="[CHAPTER]", help="The chapter to show.", show_default=False, rich_help_panel=TARGET),
]


def command(chapter: ChapterArg = "", *, report: ReportOptions) -> None:
    """The guide: without a CHAPTER the list of chapters, else that chapter; in a pipe as plain Markdown text."""
    report.check()
    chapters = modelprobe.guide.chapters()
    if not chapter:
        report.emit(_table_of_contents(chapters))
        return
    name = chapter.lower().removesuffix(".md")
    if name not in chapters:
        near = difflib.get_close_matches(name, chapters, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"the chapters are {', '.join(chapters)}"
        raise BadInput(f"the guide has no chapter {chapter!r}", hint)
    text = chapters[name].read_text(encoding="utf-8")
    if is_terminal(sys.stdout):
        text = _drawn_for_terminal(text)
    write_text(sys.stdout, text)


def _table_of_contents(chapters: dict[str, Path]) -> Report:
    titles = {name: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name, path in chapters.items()}
    table = Table((Column("chapter", "Chapter"), Column("title", "What it covers")), tuple(map(Row, titles.items())))
    data = {"chapters": [{"chapter": name, "title": title} for name, title in titles.items()]}
    return Report("Guide", "modelprobe.guide/1", (table, Note("`modelprobe guide CHAPTER` shows one.")), data)


def _drawn_for_terminal(text: str) -> str:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import CodeBlock, Markdown
    from rich.syntax import Syntax

    class Transcript(CodeBlock):
        """A code block without margins: what commands print is up to 80 columns wide."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            yield Syntax(str(self.text).rstrip(), self.lexer_name, theme=self.theme, word_wrap=True)

    class Chapter(Markdown):
        elements: ClassVar[dict[str, Any]] = {**Markdown.elements, "fence": Transcript, "code_block": Transcript}

    style = style_of(sys.stdout)
    console = Console(width=min(style.width, 100), no_color=not style.colour, force_terminal=True)
    with console.capture() as captured:
        console.print(Chapter(text))
    return captured.get()
