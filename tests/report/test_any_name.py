"""Whatever a task, an edition, a measure or a picture is called, its report is written and shows that name as text."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from mtl_accum import report as reports
from mtl_accum.report import file_name, plain
from mtl_accum.report._escape import code
from mtl_accum.report._pictures import _any_text, _curves, _label
from tests.report.examples import prediction, report

NAMES = [
    *("$$x", "$x$", "$\\frac$", r"\alpha", "a|b", r"a\|b", "<b>bold</b>", "<script>alert(1)</script>", "a\nb"),
    *("a\r\n\r\nb", "`x`", "``", "100 %", "%s", "%{x}", "*x*", "_x_", "__init__", "per_task", "[x](http://y)"),
    *("![x](y)", "~~x~~", "# x", "x #", "- x", "1. x", "---", "===", "&lt;", "&", "x\ty", "{x}", "{{ x }}"),
    *("[red]x[/]", ":smile:", "../../x", "/etc/x", ".", "..", "中文", "é", "x" * 300, "1", "2026-01-31"),
    *("'", '"', "</script>", "$$x`|<\n%"),
]
FEW = ["$$x", "$\\frac$", "a\nb", "../../x", "_x", "中文", "x" * 300, "$$x`|<\n%"]
MARKUP = {"em_open", "strong_open", "s_open", "link_open", "html_inline", "html_block", "code_inline", "hr"}
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def named(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The same report with that name wherever a person chooses one."""
    content = copy.deepcopy(content)
    for row in content["editions"]:
        for record in row["memory"]:
            for phase in record["timeline"]:
                phase["name"] = phase["name"].replace("head a", f"head {name}")
            record["peak_phase"] = f"head {name} backward"
    content["editions"][0]["edition"] = name
    content["editions"][-1]["failure"] = f"task {name} has failed"
    content["config"] = {"name": name, name: [name]}
    if "training" in content:
        content["training"]["losses"] = {name: [1.0, 0.1], "b": [2.0, 1.0]}
        content["training"]["changes"] = [f"{name}: once more"]
        content["metrics"] = {name: 0.5}
        content["images"] = {name: [{**strip, "name": name} for strip in content["images"]["restored?"]]}
    return content


def tokens(page: str) -> Iterator[Any]:
    """All tokens of a page."""
    for block in PARSER.parse(page):
        yield block
        yield from block.children or ()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("content", [report(), prediction()], ids=["run", "prediction"])
def test_markdown_shows_the_name_and_nothing_else(name: str, content: dict[str, Any]) -> None:
    page = reports.markdown(named(content, name))
    assert [token.content for token in tokens(page) if token.type in MARKUP] == [content["command"]]
    blocks = {"".join(child.content for child in block.children) for block in tokens(page) if block.type == "inline"}
    line = " ".join(name.split())
    assert {line, f"head {line} backward"} <= blocks
    assert any(block.endswith(f"task {line} has failed") for block in blocks)
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        bars = {len(re.findall(r"(?:^|[^\\])(?:\\\\)*\|", row)) for row in table.splitlines()}
        assert len(bars) == 1, "every row of a table has as many cells"


@pytest.mark.parametrize("name", FEW, ids=ascii)
def test_a_report_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    reports.write(named(report(), name), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    names = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    assert {"peaks.png", "step.png", "training.png"} <= names
    (image,) = (each for each in names if each.startswith("images_"))
    assert f"](pictures/{image})" in (tmp_path / "run" / "report.md").read_text()


def test_pictures_draw_names_as_they_are() -> None:
    with _any_text():
        figure = _curves({"$$x": [1.0, 0.001], "_hidden": [1.0, 0.5]})
        figure.canvas.draw()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["$$x", " _hidden"]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert {"1e−03", "1e−02", "1e−01", "1"} <= set(labels), "powers of ten are mathematics elsewhere"


def test_names_that_are_alike_have_a_file_each() -> None:
    taken: list[Any] = []
    for name in ("a/b", "a|b", "a_b", "a.b", "..", ".", "", "x" * 300):
        taken.append(file_name(name, taken))
    assert taken == ["a_b", "a_b_2", "a_b_3", "a.b", "_", "__2", "__3", "x" * 100]


@pytest.mark.parametrize("text", ["a", "a`b", "``", "`a", "a ``` b"])
def test_code_of_any_text(text: str) -> None:
    (paragraph,) = (token for token in PARSER.parse(code(text)) if token.type == "inline")
    assert [(child.type, child.content) for child in paragraph.children] == [("code_inline", text)]


def test_plain_words_stay_as_they_are() -> None:
    sentence = "Split (split) saved 25.0 % (300.0 MiB instead of 400.0 MiB) at 1.50 times the time; per_task: no."
    assert plain(sentence) == sentence
    assert _label("per_task") == "per_task"
