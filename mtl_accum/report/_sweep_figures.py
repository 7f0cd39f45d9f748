"""The figures of a sweep: memory and time against every number that was varied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from mtl_accum.report._figures import DASHES, GRID, new_figure
from mtl_accum.report._looks import EDITION_COLOURS
from mtl_accum.report._table import mib, step_time

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["sweep_figures"]

Rows = Sequence[Mapping[str, Any]]
_MIB = 2**20


def sweep_figures(rows: Rows, knobs: Sequence[str]) -> Iterator[tuple[str, str, Figure]]:
    """Title, words and figure of each plot: peak memory and time against every number, a line an edition.

    Args:
        rows: of the sweep.
        knobs: what was varied.
    """
    for knob in knobs:
        known = [row for row in rows if _is_number(row["overrides"].get(knob))]
        if len({row["overrides"][knob] for row in known}) > 1:
            others = [other for other in knobs if other != knob]
            yield f"Memory against {knob}", "Peak of one step.", _lines(known, knob, others, _peak, "peak, MiB")
            yield f"Time against {knob}", "One step, median.", _lines(known, knob, others, _step, "step, ms")


def _lines(rows: Rows, knob: str, others: Sequence[str], height: Any, title: str) -> Figure:
    figure = new_figure(title, height=400)
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        size = height(row)
        if size is not None:
            said = f"{mib(row['peak_bytes'])}" if height is _peak else f"{size:.1f} ms"
            lines.setdefault(_name(row, others), []).append((float(row["overrides"][knob]), size, said))
    for index, (name, points) in enumerate(lines.items()):
        points.sort()
        figure.add_scatter(
            x=[x for x, _, _ in points],
            y=[y for _, y, _ in points],
            text=[said for *_, said in points],
            name=escape(name),
            mode="lines+markers",
            line={"color": EDITION_COLOURS[index % len(EDITION_COLOURS)], "dash": DASHES[index % len(DASHES)]},
            marker={"symbol": index % 6, "size": 9},
            hovertemplate="%{x}: %{text}",
        )
    figure.update_xaxes(title_text=escape(knob), gridcolor=GRID)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _peak(row: Mapping[str, Any]) -> float | None:
    return None if row["peak_bytes"] is None else row["peak_bytes"] / _MIB


def _step(row: Mapping[str, Any]) -> float | None:
    seconds = step_time(row)
    return None if seconds is None else 1000 * seconds


def _name(row: Mapping[str, Any], others: Sequence[str]) -> str:
    """The edition, and what else is varied."""
    said = [f"{other}={row['overrides'].get(other, '')}" for other in others if other != "edition"]
    edition = row["overrides"].get("edition") or row["edition"] or ""
    return ", ".join([edition, *said]).strip(", ") or "all"


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True
