"""A report as one page that needs nothing else: figures to hover over, tables, light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_accum.report._breakdown import breakdown_source, breakdown_table, category_notes
from mtl_accum.report._figures import (
    curves_figure,
    memory_and_time_figure,
    peaks_figure,
    sources_figure,
    step_curve_figure,
)
from mtl_accum.report._markdown import batch, device, metrics_table, steps, versions
from mtl_accum.report._plan_tables import plan_conclusion, plan_sections
from mtl_accum.report._table import editions_table

if TYPE_CHECKING:
    from jinja2 import Template
    from plotly.graph_objects import Figure

__all__ = ["Part", "html", "markup", "render"]


@dataclass(frozen=True)
class Part:
    """A section of the page.

    Attributes:
        title: its heading.
        words: what to look at, in a sentence or two.
        figure: markup of a figure.
        images: rows of images, each with its name and its PNG in base64.
        tables: cells, the first row being the heading.
        notes: one thing each.
    """

    title: str
    words: str = ""
    figure: str = ""
    images: Sequence[Mapping[str, str]] = ()
    tables: list[list[list[str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def html(report: Mapping[str, Any]) -> str:
    """The whole report as one page: no file beside it, no request to anybody."""
    facts = [*versions(report), f"seed {report['seed']}"]
    return render(
        title="mtl_accum: predicted memory" if report["kind"] == "prediction" else "mtl_accum: memory and time",
        command=report["command"],
        started=f"{report['created']}, {device(report)}",
        answer=editions_table(report).conclusion,
        parts=_parts(report),
        facts=facts,
        config=json.dumps(report["config"], indent=2),
    )


def render(
    *, title: str, command: str, started: str, answer: str, parts: Iterable[Part], facts: list[str], config: str
) -> str:
    """A page of parts; all text is escaped."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return _template().render(
        title=title,
        library=Markup(f"<script>{get_plotlyjs()}</script>"),
        command=command,
        started=started,
        answer=answer,
        parts=list(parts),
        facts=facts,
        config=config,
    )


def _parts(report: Mapping[str, Any]) -> Iterator[Part]:
    table = editions_table(report)
    yield Part("The editions side by side", batch(report), tables=[[table.columns, *table.rows]], notes=table.notes)
    parts = breakdown_table(report)
    words = "The highest point of one step, by what the bytes are."
    peaks = markup(peaks_figure(report), "peaks")
    yield Part("What the memory is", words, peaks, tables=[parts] if parts else [], notes=category_notes(parts))
    sources = sources_figure(report)
    if sources is not None:
        yield Part("The allocator and the driver", "Three ways to count the same step.", markup(sources, "sources"))
    saw = step_curve_figure(report)
    if saw is not None:
        how = "predicted" if breakdown_source(report) == "predicted" else "live"
        words = (
            f"Memory {how} after every operator of one step. Below, the phases of each edition: forward blue, backward "
            "red, optimizer green. Where all heads' forwards follow each other, their memory adds up; where each head "
            "has its backward at once, it does not. A click in the legend hides an edition."
        )
        yield Part("One step", words, markup(saw, "saw"))
    scatter = memory_and_time_figure(report)
    if scatter is not None:
        words = "Further left is faster, further down is smaller."
        yield Part("Memory against time", words, markup(scatter, "scatter"))
    if report.get("training"):
        yield _training(report["training"], report["metrics"])
    for name, strips in report.get("images", {}).items():
        yield Part(
            f"Images: {name}", "Of the test data, what the network makes of them and what it should.", "", strips
        )
    if "plan" in report:
        sections = plan_sections(report["plan"])
        tables = [section.table for section in sections if section.table]
        yield Part("The plan", " ".join(plan_conclusion(report["plan"])), tables=tables)


def _training(training: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Part:
    words = f"{training['epochs']} epochs, {steps(training)} steps in {training['seconds']:.1f} s."
    drawn = markup(curves_figure(training["losses"]), "curves") if any(training["losses"].values()) else ""
    tables = [metrics_table(metrics)] if metrics else []
    return Part("Training", words, drawn, tables=tables, notes=list(training.get("changes", [])))


def markup(drawn: Figure, name: str) -> Any:
    """A figure as markup that the template takes as it is; texts in it are escaped where they are made."""
    from markupsafe import Markup

    config = {"displayModeBar": False, "responsive": True}
    text = drawn.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return Markup(text)


@lru_cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return pages.get_template("page.html")
