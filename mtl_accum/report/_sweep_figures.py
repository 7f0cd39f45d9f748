"""The figures of a sweep: memory and time against every number that was varied."""

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
    """What a figure shows, whoever draws it.

    Attributes:
        what: "memory" or "time".
        knob: the number on the horizontal axis.
        axis: title of the vertical axis, with its unit.
        lines: by name, points from left to right: the number, the height, and the height in words.
    """

    what: str
    knob: str
    axis: str
    lines: dict[str, list[tuple[float, float, str]]]

    @property
    def title(self) -> str:
        """Its heading."""
        return f"{self.what.capitalize()} against {self.knob}"


def sweep_plots(rows: Sequence[Row], knobs: Sequence[str]) -> Iterator[Plot]:
    """Peak memory and time against every number that was varied, a line an edition.

    Args:
        rows: of the sweep.
        knobs: what was varied.
    """
    for knob in knobs:
        known = [row for row in rows if _is_number(row["overrides"].get(knob))]
        if len({row["overrides"][knob] for row in known}) > 1:
            others = [other for other in knobs if other != knob]
            plots = (
                Plot("memory", knob, "peak, MiB", _lines(known, knob, others, _peak)),
                Plot("time", knob, "step, ms (median)", _lines(known, knob, others, _step)),
            )
            yield from (plot for plot in plots if plot.lines)  # of jobs that failed there is nothing to draw


def lines_figure(plot: Plot) -> Figure:
    """A plot to hover over."""
    figure = new_figure(plot.axis, height=400)
    for index, (name, line) in enumerate(plot.lines.items()):
        figure.add_scatter(
            x=[x for x, _, _ in line],
            y=[y for _, y, _ in line],
            text=[said for *_, said in line],
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
        found = height(row)
        if found is not None:
            lines.setdefault(_name(row, others), []).append((float(row["overrides"][knob]), *found))
    return {name: sorted(line) for name, line in lines.items()}


def _peak(row: Row) -> tuple[float, str] | None:
    size = row["peak_bytes"]
    return None if size is None else (size / _MIB, mib(size))


def _step(row: Row) -> tuple[float, str] | None:
    seconds = step_time(row)
    return None if seconds is None else (1000 * seconds, milliseconds(seconds))


def _name(row: Row, others: Sequence[str]) -> str:
    """The edition, and what else is varied."""
    said = [f"{other}={row['overrides'].get(other, '')}" for other in others if other != "edition"]
    edition = row["overrides"].get("edition") or row["edition"] or ""
    return ", ".join([edition, *said]).strip(", ") or "all"


def _is_number(text: Any) -> bool:
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False
