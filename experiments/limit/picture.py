"""Picture of the memory limit's parts and of the editions' peaks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.study import MIB

__all__ = ["draw"]

_PARTS = {
    "parameters, optimizer state, batch": (("fixed",), "#bbbbbb", ""),
    "gradients": (("trunk_gradients", "head_gradients"), "#88ccee", "//"),
    "trunk's saved activations": (("trunk",), "#44aa99", ".."),
    "largest head's": (("head",), "#ddcc77", "xx"),
    "representation and dL/dz": (("representation", "gradient"), "#cc6677", "--"),
}
_MARKERS = {"summed": "s", "per_task": "^", "split": "o", "cached": "D"}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw a row per network, with memory relative to its limit.

    Args:
        results: Results of `measure` by network.
        path: Path of the PNG.
    """
    figure = Figure(figsize=(9, 1.2 + 1.5 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = list(results)
    for row, name in enumerate(names):
        limit, left = results[name]["limit"], 0.0
        for label, (keys, colour, hatch) in _PARTS.items():
            size = sum(limit[key] for key in keys) / limit["budget"]
            axes.barh(row, size, 0.5, left, color=colour, hatch=hatch, edgecolor="white", label="" if row else label)
            left += size
        peaks = {edition: results[name]["editions"].get(edition, {}).get("passes") for edition in _MARKERS}
        places = {edition: peak / limit["budget"] for edition, peak in peaks.items() if peak}
        for number, (edition, x) in enumerate(sorted(places.items(), key=lambda place: place[1])):
            axes.plot(x, row, _MARKERS[edition], color="black", markersize=8, fillstyle="none")
            above = 0.26 + 0.13 * (number % 3)  # neighbours are close to each other
            axes.annotate(f"{edition} {x:.2f}", (x, row + above), ha="center", va="bottom", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), [f"{name}\n{results[name]['limit']['budget'] / MIB:.0f} MiB" for name in names])
    axes.set_ylim(-0.5, len(names) - 0.1)
    for edition, marker in _MARKERS.items():
        axes.plot([], [], marker, color="black", markersize=8, fillstyle="none", label=edition)
    axes.set_xlabel("peak of forward and backward passes over what one graph at a time has to keep")
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
