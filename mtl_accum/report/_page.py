"""HTML page of a report: one file with interactive figures and tables, for light and dark themes."""

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

__all__ = ["PageSection", "html", "markup", "render"]


@dataclass(frozen=True)
class PageSection:
    """Section of the page.

    Attributes:
        title: Heading of the section.
        text: Introduction in a sentence or two.
        figure: Markup of a figure.
        images: Rows of images, each with its name and its PNG in base64.
        tables: Cells of each table, headings first.
        notes: Sentences below the tables.
    """

    title: str
    text: str = ""
    figure: str = ""
    images: Sequence[Mapping[str, str]] = ()
    tables: list[list[list[str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def html(report: Mapping[str, Any]) -> str:
    """Return a report as one page that needs neither other files nor a network."""
    facts = [*versions(report), f"seed {report['seed']}"]
    return render(
        title="mtl_accum: predicted memory" if report["kind"] == "prediction" else "mtl_accum: memory and time",
        command=report["command"],
        started=f"{report['created']}, {device(report)}",
        answer=editions_table(report).conclusion,
        sections=_sections(report),
        facts=facts,
        config=json.dumps(report["config"], indent=2),
    )


def render(
    *,
    title: str,
    command: str,
    started: str,
    answer: str,
    sections: Iterable[PageSection],
    facts: list[str],
    config: str,
) -> str:
    """Return a page with sections; all text is escaped."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return _template().render(
        title=title,
        library=Markup(f"<script>{get_plotlyjs()}</script>"),
        command=command,
        started=started,
        answer=answer,
        sections=list(sections),
        facts=facts,
        config=config,
    )


def _sections(report: Mapping[str, Any]) -> Iterator[PageSection]:
    table = editions_table(report)
    yield PageSection(
        "The editions side by side", batch(report), tables=[[table.columns, *table.rows]], notes=table.notes
    )
    categories = breakdown_table(report)
    yield PageSection(
        "Memory by category",
        "The peak of one step, by category.",
        markup(peaks_figure(report), "peaks"),
        tables=[categories] if categories else [],
        notes=category_notes(categories),
    )
    sources = sources_figure(report)
    if sources is not None:
        yield PageSection(
            "The allocator and the driver", "Three ways to count the same step.", markup(sources, "sources")
        )
    step_curve = step_curve_figure(report)
    if step_curve is not None:
        source = "predicted" if breakdown_source(report) == "predicted" else "live"
        text = (
            f"Memory {source} after every operator of one step. Below, the phases of each edition: forward blue, "
            "backward red, optimizer green. Where all heads' forwards follow each other, their memory adds up; where "
            "each head has its backward at once, it does not. A click in the legend hides an edition."
        )
        yield PageSection("One step", text, markup(step_curve, "step"))
    scatter = memory_and_time_figure(report)
    if scatter is not None:
        text = "Further left is faster, further down is smaller."
        yield PageSection("Memory against time", text, markup(scatter, "tradeoff"))
    if report.get("training"):
        yield _training(report["training"], report["metrics"])
    for name, image_rows in report.get("images", {}).items():
        yield PageSection(
            f"Images: {name}", "Images of the test data with the network's outputs and the targets.", "", image_rows
        )
    if "plan" in report:
        sections = plan_sections(report["plan"])
        tables = [section.table for section in sections if section.table]
        yield PageSection("The plan", " ".join(plan_conclusion(report["plan"])), tables=tables)


def _training(training: Mapping[str, Any], metrics: Mapping[str, float | None]) -> PageSection:
    text = f"{training['epochs']} epochs, {steps(training)} steps in {training['seconds']:.1f} s."
    figure = markup(curves_figure(training["losses"]), "curves") if any(training["losses"].values()) else ""
    tables = [metrics_table(metrics)] if metrics else []
    return PageSection("Training", text, figure, tables=tables, notes=list(training.get("changes", [])))


def markup(figure: Figure, name: str) -> Any:
    """Return a figure as markup that the template inserts unescaped; its texts are escaped where they are made.

    Args:
        figure: Figure to draw.
        name: Identifier of its element.
    """
    from markupsafe import Markup

    config = {"displayModeBar": False, "responsive": True}
    text = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return Markup(text)


@lru_cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return pages.get_template("page.html")
