"""Pictures of a report as PNG, for papers and READMEs: legible in grey and for colour-blind readers."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_accum.report._breakdown import CATEGORIES, breakdown_source, steps_with_phases
from mtl_accum.report._escape import file_name
from mtl_accum.report._figure_data import SOURCES, categories_of_peak, tradeoff
from mtl_accum.report._step_curve import phase_bars, points
from mtl_accum.report._style import CATEGORY_STYLES, EDITION_COLOURS, KIND_COLOURS, KIND_HATCHES, OTHER_STYLE
from mtl_accum.report._sweep_figures import Plot
from mtl_accum.report._table import mib, peak_bytes, peak_source

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pictures", "plot_pictures"]

Drawing = Callable[[Path], None]
_MIB = 2**20
_DASHES = ["-", "--", ":", "-.", (0, (8, 3)), (0, (8, 2, 2, 2))]
_MARKERS = "osDXP^"
_LONGEST_LABEL = 60
_NARROW = 4.5  # per cent of the step; the name of a phase does not fit into a narrower bar


def pictures(report: Mapping[str, Any]) -> dict[str, Drawing]:
    """Return functions that write the pictures of a report to a path, by file name; without empty pictures."""
    drawn: dict[str, Callable[[], Figure]] = {"peaks": lambda: _peaks(report)}
    if peak_source(report) == "cuda":
        drawn["sources"] = lambda: _sources(report)
    if steps_with_phases(report):
        drawn["step"] = lambda: _step(report)
    if tradeoff(report)[0]:
        drawn["tradeoff"] = lambda: _tradeoff(report)
    if any(report.get("training", {}).get("losses", {}).values()):
        drawn["training"] = lambda: _curves(report["training"]["losses"])
    for name, image_rows in report.get("images", {}).items():
        drawn[file_name(f"images_{name}", drawn)] = lambda rows=image_rows: _images(rows)  # type: ignore[misc]
    return {f"{name}.png": _saving(draw) for name, draw in drawn.items()}


def plot_pictures(plots: Iterable[Plot]) -> dict[str, Drawing]:
    """Return functions that write a sweep's plots to a path, by file name."""
    drawn: dict[str, Drawing] = {}
    for plot in plots:
        name = file_name(f"{plot.quantity}_{plot.knob}", [name.removesuffix(".png") for name in drawn])
        drawn[f"{name}.png"] = _saving(lambda plot=plot: _lines(plot))  # type: ignore[misc]
    return drawn


def _saving(draw: Callable[[], Figure]) -> Drawing:
    def save(path: Path) -> None:
        with _any_text():
            draw().savefig(path, dpi=150, format="png")

    return save


@contextmanager
def _any_text() -> Iterator[None]:
    """Draw names literally: "$$x" is no mathematics, and a name in another script may lack glyphs."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)  # names too long for it
        yield


def _label(name: str) -> str:
    """Return a name for a legend: shortened, and not beginning with an underscore, which would hide it."""
    short = name if len(name) <= _LONGEST_LABEL else f"{name[:_LONGEST_LABEL]}…"
    return f" {short}" if short.startswith("_") else short


def _new(width: float, height: float, rows: Sequence[float] = (1,)) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    return figure, list(panels)


def _styles() -> Iterator[tuple[str, Any, str]]:
    """Yield colours, dashes and markers; any two of the first six differ in all three."""
    while True:
        yield from zip(EDITION_COLOURS, _DASHES, _MARKERS, strict=True)


def _peaks(report: Mapping[str, Any]) -> Figure:
    """Draw a bar per edition: its peak, stacked by category, with the unexplained part on top."""
    source = peak_source(report)
    rows = report["editions"]
    peaks = [peak_bytes(row, source) for row in rows]
    figure, [axes] = _new(3.2 + 1.1 * len(rows), 4.2)
    shown: set[str] = set()
    for index, (row, peak) in enumerate(zip(rows, peaks, strict=True)):
        bottom = 0.0
        for category, size in categories_of_peak(row, report, peak):
            colour, hatch = CATEGORY_STYLES.get(category, OTHER_STYLE)
            label = CATEGORIES[category][0] if category in CATEGORIES else "kernels and rounding"
            style: Any = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5, "width": 0.6}
            axes.bar(index, size / _MIB, bottom=bottom, label=None if category in shown else label, **style)
            shown.add(category)
            bottom += size / _MIB
        label = mib(peak)
        if index and peak is not None and peaks[0]:
            label += f"\n{100 * (peak / peaks[0] - 1):+.1f} %".replace("-", "−")
        top = (index, (peak or 0) / _MIB)
        axes.annotate(label, top, (0, 3), textcoords="offset points", ha="center", va="bottom")
    axes.set_xticks(range(len(rows)), [_label(row["edition"]) for row in rows])
    axes.set_ylim(0, 1.2 * max([peak for peak in peaks if peak], default=1) / _MIB)
    quantity = {"cuda": "allocated memory", "tensors": "live tensors", "predicted": "predicted memory"}[source]
    axes.set_ylabel(f"peak of {quantity}, MiB")
    if shown:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], frameon=False, loc="outside right upper", fontsize="small")
    return figure


def _sources(report: Mapping[str, Any]) -> Figure:
    """Draw the peaks of allocator, pool and driver side by side."""
    rows = report["editions"]
    figure, [axes] = _new(2.5 + 1.6 * len(rows), 4.2)
    width = 0.8 / len(SOURCES)
    for index, ((key, label), hatch) in enumerate(zip(SOURCES.items(), ["", "//", "..", "xx"], strict=True)):
        sizes = [(peak_bytes(row, "cuda", key) or 0) / _MIB for row in rows]
        places = [place + (index - (len(SOURCES) - 1) / 2) * width for place in range(len(rows))]
        style: Any = {"color": EDITION_COLOURS[index], "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
        axes.bar(places, sizes, width, label=label, **style)
    axes.set_xticks(range(len(rows)), [_label(row["edition"]) for row in rows])
    axes.set_ylabel("peak, MiB")
    figure.legend(frameon=False, loc="outside upper left", ncols=2, fontsize="small")
    return figure


def _step(report: Mapping[str, Any]) -> Figure:
    """Draw live bytes through one step with a line per edition, and a ribbon of each edition's phases below."""
    from matplotlib.patches import Patch

    steps = steps_with_phases(report)
    figure, [axes, ribbons] = _new(9, 3.8 + 0.32 * len(steps), [3.6, 0.3 * len(steps)])
    kinds: dict[str, Any] = {}
    for index, ((name, record), (colour, dash, _)) in enumerate(zip(steps, _styles(), strict=False)):
        line = list(points(record))
        axes.plot(
            [x for x, _, _ in line],
            [y / _MIB for _, y, _ in line],
            label=_label(name),
            color=colour,
            ls=dash,
            linewidth=1.6,
        )
        for bar in phase_bars(record):
            style: Any = {"facecolor": KIND_COLOURS[bar.kind], "hatch": KIND_HATCHES[bar.kind], "edgecolor": "white"}
            ribbons.barh(index, bar.end - bar.start, left=bar.start, height=0.8, linewidth=0.6, **style)
            kinds.setdefault(bar.kind, Patch(label=bar.kind, **style))
            if bar.end - bar.start > max(_NARROW, 1.1 * len(bar.name)):
                middle = ((bar.start + bar.end) / 2, index)
                plate = {"facecolor": KIND_COLOURS[bar.kind], "edgecolor": "none", "pad": 1.2}
                ribbons.annotate(bar.name, middle, color="white", ha="center", va="center", fontsize=7.5, bbox=plate)
    axes.set_ylim(0)
    predicted = breakdown_source(report) == "predicted"
    axes.set_ylabel("predicted, MiB" if predicted else "live, MiB")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    ribbons.set_yticks(range(len(steps)), [_label(name) for name, _ in steps])
    ribbons.invert_yaxis()
    ribbons.grid(False)
    ribbons.tick_params(axis="y", length=0)
    ribbons.spines[["left"]].set_visible(False)
    ribbons.set_xlim(0, 100)
    ribbons.set_xlabel("progress of the step, the optimizer shortened, %")
    figure.legend(handles=list(kinds.values()), frameon=False, loc="outside lower right", ncols=4, fontsize="small")
    return figure


def _tradeoff(report: Mapping[str, Any]) -> Figure:
    """Draw a point per edition, and their Pareto front."""
    editions, front = tradeoff(report)
    figure, [axes] = _new(6, 4)
    axes.step(
        *([1000 * seconds for seconds, _, _ in front], [peak / _MIB for _, peak, _ in front]),
        where="post",
        color="0.5",
        linestyle=":",
        label="Pareto front",
    )
    for (seconds, peak, name), (colour, _, marker) in zip(editions, _styles(), strict=False):
        axes.scatter(1000 * seconds, peak / _MIB, s=70, color=colour, marker=marker, zorder=3)
        axes.annotate(_label(name), (1000 * seconds, peak / _MIB), (0, 8), textcoords="offset points", ha="center")
    axes.set_xlim(0, 1.15 * max(1000 * seconds for seconds, _, _ in editions))
    axes.set_ylim(0, 1.15 * max(peak / _MIB for _, peak, _ in editions))
    axes.set_xlabel("step, ms (median)")
    axes.set_ylabel("peak, MiB")
    axes.legend(frameon=False, loc="lower left")
    return figure


def _curves(losses: Mapping[str, Sequence[float | None]]) -> Figure:
    """Draw every task's loss at every step."""
    from matplotlib.ticker import LogFormatter

    figure, [axes] = _new(6, 4)
    for (name, history), (colour, dash, _) in zip(losses.items(), _styles(), strict=False):
        known = [(step, value) for step, value in enumerate(history, 1) if value is not None]
        axes.plot(*zip(*known, strict=True), label=_label(name), color=colour, linestyle=dash) if known else None
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())  # the default formatter writes powers of ten as mathematics
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    return figure


def _lines(plot: Plot) -> Figure:
    """Draw memory or time against a number, with a line per edition."""
    figure, [axes] = _new(6.4, 4)
    for (name, line), (colour, dash, marker) in zip(plot.lines.items(), _styles(), strict=False):
        axes.plot(
            *([x for x, _, _ in line], [y for _, y, _ in line]),
            label=_label(name),
            color=colour,
            linestyle=dash,
            marker=marker,
        )
    axes.set_ylim(0)
    axes.set_xlabel(_label(plot.knob))
    axes.set_ylabel(plot.axis)
    figure.legend(frameon=False, loc="outside upper left", ncols=3, fontsize="small")
    return figure


def _images(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Draw rows of images, each with its name."""
    from matplotlib.image import imread

    images = [imread(io.BytesIO(base64.b64decode(row["png"])), format="png") for row in rows]
    height = sum(image.shape[0] / image.shape[1] for image in images)
    figure, panels = _new(9, 0.6 + 7.5 * height, [image.shape[0] / image.shape[1] for image in images])
    for axes, row, image in zip(panels, rows, images, strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect="auto", extent=(0, 1, 0, 1))
        axes.set_ylabel(_label(row["name"]), rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure
