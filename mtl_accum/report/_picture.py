"""The picture of a report: the editions' peaks as bars, and the training curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl_accum.report._table import mib, peak_bytes, peak_source

__all__ = ["picture"]

# Okabe and Ito (2008), Color Universal Design: told apart by colour-blind readers; hatches for grey prints.
_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
_HATCHES = ["", "//", "..", "xx", "\\\\", "--"]
_LINES = ["-", "--", "-.", ":"]


def picture(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    bars, curves = figure.subplots(1, 2)
    _draw_bars(bars, report)
    _draw_curves(curves, report["training"]["losses"])
    figure.savefig(path, dpi=150, format="png")


def _draw_bars(axes: Any, report: Mapping[str, Any]) -> None:
    source = peak_source(report)
    rows = report["editions"]
    peaks = [peak_bytes(row, source) for row in rows]
    for index, (row, peak) in enumerate(zip(rows, peaks, strict=True)):
        look = {
            "color": _COLOURS[index % 6],
            "hatch": _HATCHES[index % 6],
            "edgecolor": "white",
            "width": 0.65,
        }
        axes.bar(row["edition"], (peak or 0) / 2**20, **look)
        label = mib(peak)
        if index and peak is not None and peaks[0]:
            label += f"\n{100 * (peak / peaks[0] - 1):+.1f} %".replace("-", "−")
        axes.annotate(label, (index, (peak or 0) / 2**20), (0, 3), textcoords="offset points", ha="center", va="bottom")
    axes.set_ylim(0, 1.22 * max([peak for peak in peaks if peak], default=1) / 2**20)
    axes.set_ylabel("peak of allocated memory, MiB" if source == "cuda" else "peak of live tensors, MiB")
    axes.set_title("Memory of one training step")
    _tidy(axes)


def _draw_curves(axes: Any, losses: Mapping[str, list[float]]) -> None:
    for index, (name, history) in enumerate(losses.items()):
        style = {"color": _COLOURS[index % 6], "linestyle": _LINES[index % 4]}
        axes.plot(range(1, len(history) + 1), history, label=name, **style)
    if any(losses.values()):
        axes.set_yscale("log")
        axes.legend(frameon=False)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title("Training")
    _tidy(axes)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
