"""Bar chart of peak memory and time of every row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.peers.networks import SITUATIONS
from experiments.peers.outcome import Outcome, reference_in
from experiments.peers.rows import HAND, OURS, PEER
from experiments.study import MIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

# Okabe and Ito's colours; hatches for grey prints.
STYLES = {OURS: ("#0072B2", ""), HAND: ("#999999", ".."), PEER: ("#E69F00", "//")}


def draw(groups: dict[str, list[Outcome]], path: Path) -> None:
    """Draw memory (left) and time (right), a pair of panels per situation; rows without figures are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = {name: [item for item in outcomes if item.failure is None] for name, outcomes in groups.items()}
    shown = {name: outcomes for name, outcomes in shown.items() if outcomes and outcomes[0].row is groups[name][0].row}
    if not shown:
        return
    heights = [len(outcomes) + 1.5 for outcomes in shown.values()]
    figure = Figure(figsize=(11, 0.33 * sum(heights) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(shown), 2, squeeze=False, height_ratios=heights)
    for (memory, time), (name, outcomes) in zip(panels, shown.items(), strict=True):
        reference = reference_in(outcomes)
        _bars(memory, outcomes, [(item.peak() or 0) / MIB for item in outcomes], "{:.0f}")
        _bars(time, outcomes, [item.time(reference) or 0.0 for item in outcomes], "{:.2f}", spread_to=reference)
        time.axvline(1.0, color="0.3", linewidth=0.8)
        time.set_yticklabels([])
        memory.set_title(SITUATIONS[name].title, loc="left", fontsize=11, fontweight="bold")
        memory.set_xlabel("peak of live tensors, MiB")
        time.set_xlabel(f"time of a step / {reference.row.name}; lines: fastest to slowest round")
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=kind) for kind, (colour, hatch) in STYLES.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=130)


def _bars(
    axes: Axes, outcomes: Sequence[Outcome], values: Sequence[float], form: str, spread_to: Outcome | None = None
) -> None:
    limit = 1.18 * max(values)
    for place, (item, value) in enumerate(zip(outcomes, values, strict=True)):
        colour, hatch = STYLES[item.row.kind]
        axes.barh(place, value, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5)
        end = value
        if spread_to is not None:
            ratios = item.times(spread_to)
            end = min(max(ratios), limit)
            axes.plot([min(ratios), end], [place, place], color="black", linewidth=1)
        axes.annotate(form.format(value), (end, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, limit)
    axes.set_yticks(range(len(outcomes)), [item.row.name for item in outcomes], fontsize=9)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
