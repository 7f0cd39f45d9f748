"""The page: one file, everything in it, nothing of the data's own taken as markup."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from mtl_accum.report._figures import (
    curves_figure,
    memory_and_time_figure,
    peaks_figure,
    sources_figure,
    step_curve_figure,
)
from mtl_accum.report._page import html
from tests.report.example_plan import plan
from tests.report.examples import EVIL, LIMIT, counted, memory, prediction, report, row, without_library


@pytest.mark.parametrize("content", [report(), report("cuda"), prediction()], ids=["cpu", "cuda", "prediction"])
def test_one_file_that_asks_nobody(content: dict[str, Any]) -> None:
    page = html(content)
    assert len(page.encode()) < LIMIT
    rest = without_library(page)
    assert not re.search(r"""(src|href)\s*=(?!"data:image/png;base64,[\w+/=]+")|url\(|@import|https?://""", rest)
    for part in (
        "The editions side by side",
        "Memory by category",
        "One step",
        "What was run",
        "seed 3",
        "torch 2.13.0",
    ):
        assert part in rest
    assert content["editions"][0]["edition"] in rest


def test_names_are_text() -> None:
    content = report()
    content["command"] = content["config"]["evil"] = content["editions"][0]["meaning"] = EVIL
    content["editions"][1]["edition"] = EVIL
    content["training"]["losses"][EVIL] = [1.0, 0.5]
    content["metrics"][EVIL] = 0.5
    timeline = content["editions"][0]["memory"][0]["timeline"]
    timeline[1]["name"] = EVIL
    content["images"] = {EVIL: [{"name": EVIL, "png": EVIL}]}
    page = without_library(html({**content, "plan": plan(left_out={EVIL: EVIL})}))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_bar_is_the_peak() -> None:
    figure = peaks_figure(report())
    heights = [sum(trace.y[index] or 0 for trace in figure.data) for index in range(3)]
    assert heights == pytest.approx([400, 300, 0])
    assert figure.data[0].name == "activations"
    assert {"parameters", "temporaries"} <= {trace.name for trace in figure.data}
    assert "kernels and rounding" in {trace.name for trace in peaks_figure(report("cuda")).data}


def test_the_saw_is_the_curve_and_the_optimizer_is_short() -> None:
    figure = step_curve_figure(counted(report()))
    line = figure.data[0]
    whole = 90 * 1.08  # operators up to the last backward, and what follows, shortened
    assert list(line.x) == pytest.approx([0, 4000 / whole, 6000 / whole, 9000 / whole, 100])
    assert list(line.y) == [1, 200, 400, 3, 1]
    assert line.text[2] == "head a backward<br>400.0 MiB"
    blocks = [trace for trace in figure.data if trace.type == "bar" and trace.legendgroup == "summed"]
    assert [(trace.text[0], round(trace.base[0], 1)) for trace in blocks] == [
        ("trunk", 0.0),
        ("a", 41.2),
        ("optimizer", 92.7),
    ]


def test_the_saw_of_an_older_report_has_a_point_a_phase() -> None:
    figure = step_curve_figure(report())
    assert list(figure.data[0].y) == [200, 199, 400, 399, 3, 2]
    assert step_curve_figure({**report(), "editions": [row("summed", "x")]}) is None


def test_memory_against_time_needs_three() -> None:
    assert memory_and_time_figure(report()) is None
    points = {"a": (0.1, 400), "b": (0.2, 300), "c": (0.3, 350)}
    rows = [
        row(name, "x", memory=[memory("tensors", peak)], step_seconds=[seconds])
        for name, (seconds, peak) in points.items()
    ]
    front, *marks = memory_and_time_figure({**report(), "editions": rows}).data
    assert (list(front.x), list(front.y)) == ([100, 200], [400, 300])
    assert [mark.name for mark in marks] == ["a", "b", "c"]


def test_a_gpu_is_counted_three_ways() -> None:
    figure = sources_figure(report("cuda"))
    assert [trace.name.partition(":")[0] for trace in figure.data] == [
        "allocated",
        "reserved",
        "NVML, process",
        "NVML, device",
    ]
    assert list(figure.data[1].y)[:1] == [600]
    assert sources_figure(report()) is None


def test_curves_of_the_tasks() -> None:
    figure = curves_figure({"a": [2.0, None, 0.5], "b": []})
    assert [list(trace.y) for trace in figure.data] == [[2.0, None, 0.5], []]


def test_the_plan_is_on_the_page() -> None:
    page = html({**json.loads(json.dumps(report())), "plan": plan()})
    assert "Split() fits into the budget of 250.0 MiB" in page
    assert "<td>chosen</td>" in page
