"""Bar chart of the largest batches: a panel per network, a bar per edition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["draw"]

_COLOURS = ["#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7"]  # Okabe and Ito
_HATCHES = ["", "//", "", "..", "\\\\"]


def draw(panels: Mapping[str, Sequence[tuple[str, int, str]]], path: Path, title: str) -> None:
    """Write a PNG of 1600 pixels' width, legible at half of it.

    Args:
        panels: Bars by network: edition, batch, and the label beside it.
        path: Path of the PNG.
        title: Title of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.9 + 2.1 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, x=0.01, ha="left")
    for axes, (name, bars) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        for place, ((_, batch, text), colour, hatch) in enumerate(zip(bars, _COLOURS, _HATCHES, strict=False)):
            axes.barh(place, batch, color=colour, hatch=hatch, edgecolor="white", height=0.75)
            axes.annotate(text, (batch, place), (6, 0), textcoords="offset points", va="center", fontsize=12)
        axes.set_yticks(range(len(bars)), [edition for edition, _, _ in bars], fontsize=12)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.6 * max([batch for _, batch, _ in bars] + [1]))
        axes.set_xlabel("largest batch, samples", fontsize=12)
        axes.set_title(name, fontsize=13, loc="left")
        axes.tick_params(axis="x", labelsize=11)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=200, format="png")
