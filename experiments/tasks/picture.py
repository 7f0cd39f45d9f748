"""Line chart against the number of tasks, each line labelled at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log2
from pathlib import Path
from typing import Any

__all__ = ["draw", "spread"]

_STYLES: dict[str, tuple[str, Any, str]] = {  # Okabe and Ito's colours, dashes and markers
    "summed": ("#D55E00", "-", "o"),
    "torchjd": ("#CC79A7", "--", "X"),
    "per_task": ("#E69F00", "-.", "D"),
    "split": ("#0072B2", "-", "s"),
    "split by 16": ("#56B4E9", ":", "P"),
    "checkpointed": ("#56B4E9", ":", "v"),
    "cached": ("#009E73", (0, (6, 2)), "^"),
    "split loss": ("#882255", (0, (4, 1)), "p"),  # two of Tol's
    "checkpointed heads": ("#777777", (0, (1, 1)), "<"),
    "offloaded": ("#000000", (0, (3, 1, 1, 1)), "*"),
}
_NAMES = {"summed": "summed loss", "torchjd": "TorchJD", "checkpointed": "split + checkpoints"}
_NAMES |= {"offloaded": "split + offloading", "split loss": "Split().loss", "checkpointed heads": "heads checkpointed"}


def draw(
    lines: Mapping[str, Sequence[tuple[int, float]]],
    path: Path,
    *,
    title: str,
    axis: str,
    shown: Callable[[float], str],
) -> None:
    """Write a PNG of 1600 pixels' width, legible at half of it; both axes double from tick to tick.

    Args:
        lines: Points (tasks, value) by way.
        path: Path of the PNG.
        title: Title of the figure.
        axis: Label of the values, with their unit.
        shown: Function that formats a value at its line's end.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    last = max(tasks for line in lines.values() for tasks, _ in line)
    ends = {}
    for way, line in lines.items():
        colour, dash, marker = _STYLES[way]
        style: Any = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 7, "linewidth": 2}
        axes.plot(*zip(*line, strict=True), markeredgecolor="white", markeredgewidth=0.7, **style)
        ends[way] = line[-1]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    ticks = sorted({tasks for line in lines.values() for tasks, _ in line})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    values = [value for line in lines.values() for _, value in line]
    low, high = 2.0 ** (log2(min(values)) - 0.35), 2.0 ** (log2(max(values)) + 0.35)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(base=2, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("number of tasks", fontsize=13)
    axes.set_ylabel(axis, fontsize=13)
    axes.tick_params(labelsize=12)
    axes.set_title(title, fontsize=14, loc="left")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    heights = spread({way: log2(value) for way, (_, value) in ends.items()}, gap=(log2(high) - log2(low)) / 15)
    for way, height in heights.items():
        tasks, value = ends[way]
        text = f"{_NAMES.get(way, way)}, {shown(value)}"
        style = {
            "color": _STYLES[way][0],
            "fontsize": 12,
            "fontweight": "bold",
            "va": "center",
            "annotation_clip": False,
        }
        arrow = {"arrowstyle": "-", "color": _STYLES[way][0], "linewidth": 0.8, "shrinkA": 0, "shrinkB": 5}
        arrow["relpos"] = (0, 0.5)  # from where the text begins
        axes.annotate(text, (tasks, value), (last * 1.35, 2.0**height), arrowprops=arrow, **style)
    figure.savefig(path, dpi=200, format="png")


def spread(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Return heights for labels, in the same order from bottom to top, no two closer than the gap.

    Labels that would overlap move apart evenly around their middle.
    """
    groups = [[name] for name in sorted(heights, key=lambda name: heights[name])]
    while True:
        centres = [sum(heights[name] for name in group) / len(group) for group in groups]
        for place in range(len(groups) - 1):
            room = gap * (len(groups[place]) + len(groups[place + 1])) / 2
            if centres[place + 1] - centres[place] < room - 1e-9:
                groups[place : place + 2] = [groups[place] + groups[place + 1]]
                break
        else:
            return {
                name: centre + gap * (place - (len(group) - 1) / 2)
                for group, centre in zip(groups, centres, strict=True)
                for place, name in enumerate(group)
            }
