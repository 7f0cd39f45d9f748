"""The picture of a report: the editions' peaks by what they are, one step phase by phase, the training curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from mtl_accum.report._breakdown import CATEGORIES, breakdown_source, phase_label, steps_with_phases
from mtl_accum.report._looks import CATEGORY_LOOKS, EDITION_COLOURS, KIND_COLOURS, OTHER_LOOK
from mtl_accum.report._parts import parts_of_peak
from mtl_accum.report._table import mib, peak_bytes, peak_source

__all__ = ["picture"]

_LINES = ["-", "--", "-.", ":"]
_MOST_LABELS = 14  # phases that are named below the axis; of more, every n-th is


def picture(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    source = breakdown_source(report)
    steps = steps_with_phases(report)
    figure = Figure(figsize=(11, 4.4 + 2.2 * len(steps)), layout="constrained")
    FigureCanvasAgg(figure)
    if not steps:
        _draw_above(figure, report)
    else:
        above, below = figure.subfigures(2, 1, height_ratios=[4.4, 2.2 * len(steps)], squeeze=False)[:, 0]
        _draw_above(above, report)
        below.suptitle("Live memory through one step" if source == "tensors" else "Predicted memory through one step")
        panels = below.subplots(len(steps), 1, sharey=True, squeeze=False)[:, 0]
        for axes, (name, found) in zip(panels, steps, strict=True):
            _draw_step(axes, name, found)
        panels[0].set_ylim(0, 1.3 * max(found["peak_bytes"] for _, found in steps) / 2**20)  # room for the words
        _legend_of_kinds(panels[0])
    figure.savefig(path, dpi=130, format="png")


def _draw_above(figure: Any, report: Mapping[str, Any]) -> None:
    if "training" not in report:
        _draw_bars(figure.subplots(), report)
        return
    bars, curves = figure.subplots(1, 2)
    _draw_bars(bars, report)
    _draw_curves(curves, report["training"]["losses"])


def _draw_bars(axes: Any, report: Mapping[str, Any]) -> None:
    """A bar an edition: its peak, stacked by category; what no category explains on top."""
    source = peak_source(report)
    rows = report["editions"]
    peaks = [peak_bytes(row, source) for row in rows]
    shown: set[str] = set()
    for index, (row, peak) in enumerate(zip(rows, peaks, strict=True)):
        bottom = 0.0
        for category, size in parts_of_peak(row, report, peak):
            colour, hatch = CATEGORY_LOOKS.get(category, OTHER_LOOK)
            label = CATEGORIES[category][0] if category in CATEGORIES else "kernels and rounding"
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5, "width": 0.6}
            axes.bar(index, size / 2**20, bottom=bottom, label=None if category in shown else label, **look)
            shown.add(category)
            bottom += size / 2**20
        label = mib(peak)
        if index and peak is not None and peaks[0]:
            label += f"\n{100 * (peak / peaks[0] - 1):+.1f} %".replace("-", "−")
        top = (index, (peak or 0) / 2**20)
        axes.annotate(label, top, (0, 3), textcoords="offset points", ha="center", va="bottom")
    axes.set_xticks(range(len(rows)), [row["edition"] for row in rows])
    axes.set_xlim(-0.6, len(rows) + 0.9)  # room for the legend
    axes.set_ylim(0, 1.22 * max([peak for peak in peaks if peak], default=1) / 2**20)
    of = {"cuda": "allocated memory", "tensors": "live tensors", "predicted": "predicted memory"}[source]
    axes.set_ylabel(f"peak of {of}, MiB")
    axes.set_title("Memory of one training step")
    if shown:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], frameon=False, loc="upper right", fontsize="small")
    _tidy(axes)


def _draw_step(axes: Any, name: str, found: Mapping[str, Any]) -> None:
    """One step as a saw: up to the peak of each phase, down to what it leaves."""
    phases = found["timeline"]
    start = found["base_bytes"]
    for index, phase in enumerate(phases):
        heights = [size / 2**20 for size in (start, phase["peak_bytes"], phase["end_bytes"])]
        axes.fill_between(
            [index, index + 0.5, index + 1], heights, color=KIND_COLOURS[phase["kind"]], alpha=0.8, linewidth=0
        )
        axes.plot([index, index + 0.5, index + 1], heights, color="black", linewidth=0.8)
        start = phase["end_bytes"]
    axes.axhline(found["peak_bytes"] / 2**20, color="0.3", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{name}: peak {mib(found['peak_bytes'])} in {found['peak_phase'] or 'the step'}",
        (0.99, 0.97),
        xycoords="axes fraction",
        ha="right",
        va="top",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )
    every = -(-len(phases) // _MOST_LABELS)
    named = list(range(0, len(phases), every))
    axes.set_xticks([index + 0.5 for index in named], [fill(phase_label(phases[index]), 14) for index in named])
    axes.tick_params(axis="x", labelsize=7, length=0)
    axes.set_xlim(0, len(phases))
    axes.set_ylabel("MiB")
    _tidy(axes)


def _legend_of_kinds(axes: Any) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, alpha=0.8, label=kind) for kind, colour in KIND_COLOURS.items()]
    axes.legend(handles=handles, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize="small")


def _draw_curves(axes: Any, losses: Mapping[str, list[float]]) -> None:
    for index, (name, history) in enumerate(losses.items()):
        style = {"color": EDITION_COLOURS[index % 6], "linestyle": _LINES[index % 4]}
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
