"""Training curves of all editions and batch sizes, drawn from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["batches", "curves"]

Trainings = Mapping[str, Sequence[Mapping[str, Any]]]
_TITLES = {"digit": "loss of digit", "denoise": "loss of denoise"}
_MARKS = "os^Dv<>PX"


def curves(trainings: Trainings, path: Path) -> None:
    """Draw the first seed: all editions over each other, and their distance from the summed loss."""
    figure, panels = _figure(3)
    for number, (name, seeds) in enumerate(trainings.items()):
        epochs = range(1, 1 + len(seeds[0]["losses_apart_by_epoch"]))
        for axes, (task, title) in zip(panels, _TITLES.items(), strict=False):
            width = 7 - 0.75 * number  # the first ones shine through below the last ones
            axes.plot(epochs, seeds[0]["losses_by_epoch"][task], linewidth=width, color=f"C{number}", label=name)
            axes.set(title=title, ylabel="mean of the epoch")
        apart = seeds[0]["losses_apart_by_epoch"]
        if any(apart):
            panels[2].plot(epochs, apart, f"-{_MARKS[number]}", color=f"C{number}", markersize=4, label=name)
    same = [name for name, seeds in trainings.items() if not any(seeds[0]["losses_apart_by_epoch"])]
    panels[2].set(title="distance from summed", ylabel="largest relative difference of a loss")
    panels[2].plot([], [], " ", label=f"not drawn, 0: {len(same) - 1} others")
    panels[1].legend(frameon=False, fontsize=7, loc="upper right")
    panels[2].legend(frameon=False, fontsize=7, loc="upper right")
    _save(figure, panels, path, headroom=panels[2])


def batches(trainings: Trainings, path: Path) -> None:
    """Draw the means over the seeds: losses along the training, and the final scores."""
    figure, panels = _figure(3)
    for number, (name, seeds) in enumerate(trainings.items()):
        for axes, (task, title) in zip(panels, _TITLES.items(), strict=False):
            mean = [fmean(values) for values in zip(*(seed["losses_by_epoch"][task] for seed in seeds), strict=True)]
            style = "--" if "warm" in name else "-"
            axes.plot(range(1, 1 + len(mean)), mean, style, color=f"C{number}", linewidth=1.6, label=name)
            axes.set(title=f"{title}, mean of the seeds", ylabel="mean of the epoch")
        panels[2].plot(
            *([seed["accuracy"] for seed in seeds], [seed["psnr"] for seed in seeds], _MARKS[number]),
            color=f"C{number}",
            label=name,
        )
    panels[0].legend(frameon=False, fontsize=7)
    _save(figure, panels[:2], path, panels[2])


def _figure(columns: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(4.6 * columns, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns))


def _save(
    figure: Figure, over_epochs: Sequence[Axes], path: Path, scores: Axes | None = None, headroom: Axes | None = None
) -> None:
    for axes in over_epochs:
        axes.set(xlabel="epoch", yscale="log")
    over_epochs[0].set_yscale("linear")  # the loss of digit is of one order of magnitude
    if headroom is not None:
        headroom.set_ylim(top=5 * headroom.get_ylim()[1])  # for the legend
    if scores is not None:
        scores.set(title="on the test data, every seed", xlabel="accuracy", ylabel="PSNR, dB")
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
