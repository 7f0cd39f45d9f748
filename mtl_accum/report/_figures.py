"""Interactive figures of a page: peaks by category, the curve of one step, memory against time, training losses."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from mtl_accum.report._breakdown import CATEGORIES, steps_with_phases
from mtl_accum.report._figure_data import SOURCES, categories_of_peak, tradeoff
from mtl_accum.report._step_curve import phase_bars, points
from mtl_accum.report._style import CATEGORY_STYLES, EDITION_COLOURS, KIND_COLOURS, OTHER_STYLE
from mtl_accum.report._table import mib, peak_bytes, peak_source

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "DASHES",
    "GRID",
    "curves_figure",
    "memory_and_time_figure",
    "new_figure",
    "peaks_figure",
    "sources_figure",
    "step_curve_figure",
]

_MIB = 2**20
_PATTERNS = {
    "//": "/",
    "\\\\": "\\",
    "..": ".",
    "xx": "x",
    "--": "-",
    "": "",
}  # plotly's patterns by matplotlib's hatch
_OVERLAY = {"fillmode": "overlay", "fgcolor": "white", "fgopacity": 0.6, "size": 6}
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]
GRID = "rgba(128, 128, 128, 0.25)"


def peaks_figure(report: Mapping[str, Any]) -> Figure:
    """Return a bar per edition, stacked by category."""
    figure = new_figure("peak, MiB", height=420)
    source = peak_source(report)
    rows = report["editions"]
    names = [escape(row["edition"]) for row in rows]
    stacks = [dict(categories_of_peak(row, report, peak_bytes(row, source))) for row in rows]
    for category in [*CATEGORY_STYLES, ""]:
        sizes = [stack.get(category, 0) for stack in stacks]
        if not any(sizes):
            continue
        colour, hatch = CATEGORY_STYLES.get(category, OTHER_STYLE)
        label = CATEGORIES[category][0] if category else "kernels and rounding"
        figure.add_bar(
            x=names,
            y=[size / _MIB for size in sizes],
            name=label,
            marker={"color": colour, "pattern": {"shape": _PATTERNS[hatch], **_OVERLAY}},
            customdata=[mib(size) for size in sizes],
            hovertemplate=f"%{{x}}<br>{label}: %{{customdata}}<extra></extra>",
        )
    for name, row in zip(names, rows, strict=True):
        peak = peak_bytes(row, source)
        if peak is not None:
            figure.add_annotation(x=name, y=peak / _MIB, text=mib(peak), yshift=11, showarrow=False)
    figure.update_layout(barmode="stack", bargap=0.45)
    figure.update_xaxes(type="category")  # the name of an edition may be a number or a date
    return figure


def sources_figure(report: Mapping[str, Any]) -> Figure | None:
    """Return the peaks of allocator, pool and driver side by side; None without a GPU."""
    if peak_source(report) != "cuda":
        return None
    figure = new_figure("peak, MiB", height=380)
    for index, (key, label) in enumerate(SOURCES.items()):
        sizes = [peak_bytes(row, "cuda", key) for row in report["editions"]]
        figure.add_bar(
            x=[escape(row["edition"]) for row in report["editions"]],
            y=[None if size is None else size / _MIB for size in sizes],
            name=label,
            marker={"color": EDITION_COLOURS[index], "pattern": {"shape": ["", "/", ".", "x"][index], **_OVERLAY}},
            customdata=[mib(size) for size in sizes],
            hovertemplate=f"%{{x}}<br>{label}<br>%{{customdata}}<extra></extra>",
        )
    return figure


def step_curve_figure(report: Mapping[str, Any]) -> Figure | None:
    """Return live bytes through one step with a line per edition, and a ribbon of each edition's phases below."""
    from plotly.subplots import make_subplots

    steps = steps_with_phases(report)
    if not steps:
        return None
    ribbons = 34 * len(steps)
    height = 360 + ribbons + 90
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.03, row_heights=[360, ribbons])
    for index, (name, record) in enumerate(steps):
        line = list(points(record))
        colour = EDITION_COLOURS[index % len(EDITION_COLOURS)]
        figure.add_scatter(
            x=[x for x, _, _ in line],
            y=[size / _MIB for _, size, _ in line],
            text=[f"{escape(phase)}<br>{mib(size)}" for _, size, phase in line],
            name=escape(name),
            legendgroup=name,
            line={"color": colour, "dash": DASHES[index % len(DASHES)], "width": 2},
            hovertemplate="%{text}",
            row=1,
            col=1,
        )
        bars = phase_bars(record)
        for kind, colour in KIND_COLOURS.items():
            of_kind = [bar for bar in bars if bar.kind == kind]
            if not of_kind:
                continue
            figure.add_bar(
                y=[escape(name)] * len(of_kind),
                base=[bar.start for bar in of_kind],
                x=[bar.end - bar.start for bar in of_kind],
                text=[escape(bar.name) for bar in of_kind],
                customdata=[escape(bar.hover) for bar in of_kind],
                orientation="h",
                marker={"color": colour, "line": {"color": "white", "width": 1}},
                textposition="inside",
                insidetextanchor="middle",
                textfont={"color": "white", "size": 11},
                textangle=0,
                legendgroup=name,
                showlegend=False,
                hovertemplate="%{customdata}<extra>%{y}</extra>",
                row=2,
                col=1,
            )
    _set_layout(figure, height)
    figure.update_layout(barmode="overlay", bargap=0.15, uniformtext={"mode": "hide", "minsize": 9})
    figure.update_yaxes(title_text="live, MiB", rangemode="tozero", gridcolor=GRID, row=1, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=1)
    figure.update_xaxes(title_text="progress of the step, the optimizer shortened", ticksuffix=" %", row=2, col=1)
    figure.update_xaxes(range=[0, 100], gridcolor=GRID)
    return figure


def memory_and_time_figure(report: Mapping[str, Any]) -> Figure | None:
    """Return a point per edition and their Pareto front; None for fewer than three editions."""
    editions, front = tradeoff(report)
    if not editions:
        return None
    figure = new_figure("peak, MiB", height=380)
    figure.add_scatter(
        x=[1000 * seconds for seconds, _, _ in front],
        y=[peak / _MIB for _, peak, _ in front],
        mode="lines",
        line={"color": "#888888", "dash": "dot", "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )
    for index, (seconds, peak, name) in enumerate(editions):
        figure.add_scatter(
            x=[1000 * seconds],
            y=[peak / _MIB],
            mode="markers+text",
            text=[escape(name)],
            textposition="top center",
            name=escape(name),
            marker={"size": 13, "symbol": index % 6, "color": EDITION_COLOURS[index % len(EDITION_COLOURS)]},
            hovertemplate=f"%{{text}}<br>{mib(peak)}<br>%{{x:.1f}} ms<extra></extra>",
        )
    figure.update_xaxes(title_text="step, ms (median)", rangemode="tozero", gridcolor=GRID)
    figure.update_yaxes(rangemode="tozero")
    return figure


def curves_figure(losses: Mapping[str, list[float | None]]) -> Figure:
    """Return every task's loss at every step."""
    figure = new_figure("loss", height=360)
    for index, (name, history) in enumerate(losses.items()):
        figure.add_scatter(
            x=list(range(1, len(history) + 1)),
            y=history,
            name=escape(name),
            line={"color": EDITION_COLOURS[index % len(EDITION_COLOURS)], "dash": DASHES[index % len(DASHES)]},
            hovertemplate="step %{x}: %{y:.4g}",
        )
    figure.update_xaxes(title_text="step", gridcolor=GRID)
    figure.update_yaxes(type="log", dtick="D2")
    return figure


def new_figure(title: str, *, height: int) -> Figure:
    """Return an empty figure with a title at its vertical axis."""
    from plotly.graph_objects import Figure

    figure = Figure()
    _set_layout(figure, height)
    figure.update_yaxes(title_text=title, gridcolor=GRID, zerolinecolor=GRID)
    return figure


def _set_layout(figure: Figure, height: int) -> None:
    """Set the layout, with the background and text colour of the page, which has a light and a dark theme."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 12, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
    )
