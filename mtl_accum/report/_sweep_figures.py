"""Figures of a sweep: memory and time against every varied number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from mtl_accum.report._figures import DASHES, GRID, new_figure
from mtl_accum.report._style import EDITION_COLOURS
from mtl_accum.report._table import mib, milliseconds, step_time

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Plot", "lines_figure", "sweep_plots"]

Row = Mapping[str, Any]
_MIB = 2**20


@dataclass(frozen=True)
class Plot:
    """Data of a figure, for the page and for pictures.

    Attributes:
        quantity: "memory" or "time".
        knob: Name of the varied number on the horizontal axis.
        axis: Title of the vertical axis, with its unit.
        lines: Points from left to right by the name of a line: the number, the height, and the height as text.
    """

    quantity: str
    knob: str
    axis: str
    lines: dict[str, list[tuple[float, float, str]]]

    @property
    def title(self) -> str:
        """Heading of the figure."""
        return f"{self.quantity.capitalize()} against {self.knob}"


def sweep_plots(rows: Sequence[Row], knobs: Sequence[str]) -> Iterator[Plot]:
    """Return the plots of peak memory and time against every varied number, with a line per edition.

    Args:
        rows: Rows of the sweep.
        knobs: Names of everything that was varied.
    """
    for knob in knobs:
        known = [row for row in rows if _is_number(row["overrides"].get(knob))]
        if len({row["overrides"][knob] for row in known}) > 1:
            others = [other for other in knobs if other != knob]
            plots = (
                Plot("memory", knob, "peak, MiB", _lines(known, knob, others, _peak)),
                Plot("time", knob, "step, ms (median)", _lines(known, knob, others, _step)),
            )
            yield from (plot for plot in plots if plot.lines)  # none if all jobs failed


def lines_figure(plot: Plot) -> Figure:
    """Return an interactive figure of a plot."""
    figure = new_figure(plot.axis, height=400)
    for index, (name, line) in enumerate(plot.lines.items()):
        figure.add_scatter(
            x=[x for x, _, _ in line],
            y=[y for _, y, _ in line],
            text=[label for *_, label in line],
            name=escape(name),
            mode="lines+markers",
            line={"color": EDITION_COLOURS[index % len(EDITION_COLOURS)], "dash": DASHES[index % len(DASHES)]},
            marker={"symbol": index % 6, "size": 9},
            hovertemplate="%{x}: %{text}",
        )
    figure.update_xaxes(title_text=escape(plot.knob), gridcolor=GRID)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _lines(
    rows: Sequence[Row], knob: str, others: Sequence[str], height: Callable[[Row], tuple[float, str] | None]
) -> dict[str, list[tuple[float, float, str]]]:
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        point = height(row)
        if point is not None:
            lines.setdefault(_name(row, others), []).append((float(row["overrides"][knob]), *point))
    return {name: sorted(line) for name, line in lines.items()}


def _peak(row: Row) -> tuple[float, str] | None:
    size = row["peak_bytes"]
    return None if size is None else (size / _MIB, mib(size))


def _step(row: Row) -> tuple[float, str] | None:
    seconds = step_time(row)
    return None if seconds is None else (1000 * seconds, milliseconds(seconds))


def _name(row: Row, others: Sequence[str]) -> str:
    """Return the name of a line: the edition, and the other varied settings."""
    settings = [f"{other}={row['overrides'].get(other, '')}" for other in others if other != "edition"]
    edition = row["overrides"].get("edition") or row["edition"] or ""
    return ", ".join([edition, *settings]).strip(", ") or "all"


def _is_number(text: Any) -> bool:
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False
