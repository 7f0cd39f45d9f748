"""Conclusions in sentences, computed from the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from experiments.study import MIB
from experiments.tasks.fit import Line
from experiments.tasks.measure import Cell

__all__ = ["target_of_split", "target_of_summed", "targets_of_loss", "why"]

GROWTH, STRAIGHT = 0.01, 0.999  # how much Split may grow, and the least R² of a straight line
GROWTH_OF_LOSS, FIRST, LAST = 0.05, 2, 32  # how much the form of a loss may grow, from so many tasks to so many
AT_MOST, OF_CHECKPOINTED = 1.02, 0.8  # of the summed loss's time, and of that of checkpointed heads
FEW = 64  # bytes a task that no graph hides in: the losses that are returned


def target_of_split(cells: Sequence[Cell]) -> str:
    """Return whether Split's peak above the resting bytes stays at its value with two tasks."""
    known = {cell.tasks: cell.above for cell in cells if cell.tasks > 1 and cell.above is not None}
    if len(known) < 2:
        return "Split's growth: not measured."
    first, last = min(known), max(known)
    added, growth = known[last] - known[first], known[last] / known[first] - 1
    verdict = "met" if growth < GROWTH else "MISSED"
    text = f"**Target {verdict}**: Split's peak above the resting bytes grows by {growth:+.4%} from {first} to {last} "
    text += f"tasks (less than {GROWTH:.0%} was wanted): {added:,} bytes, {added / (last - first):.1f} a task"
    if 0 < added <= FEW * (last - first):
        text += ", which is about what the 0-dim losses that it returns take"
    return text + "."


def target_of_summed(cells: Sequence[Cell], line: Line | None) -> str:
    """Return whether the summed loss grows in a straight line."""
    if line is None:
        return "The summed loss's growth: not measured."
    straight = line.slope > 0 and line.r2 is not None and line.r2 >= STRAIGHT
    fitted = f"{line.slope / MIB:.3f} MiB a task, R² {0.0 if line.r2 is None else line.r2:.5f}"
    verdict = "met" if straight else "MISSED"
    known = [cell.above for cell in cells if cell.tasks > 1 and cell.above]
    times = f"; with the most tasks it is {known[-1] / known[0]:.1f} times what it is with two" if known else ""
    return f"**Target {verdict}**: the summed loss's grows linearly: {fitted}{times}."


def targets_of_loss(cells: Sequence[Cell], checkpointed: Sequence[Cell]) -> list[str]:
    """Return whether `Split().loss` stays at its value with two tasks, and is as fast as the summed loss.

    Args:
        cells: Cells of `Split().loss`.
        checkpointed: Cells of the heads under `torch.utils.checkpoint`, on the same networks.
    """
    known = {cell.tasks: cell.above for cell in cells if FIRST <= cell.tasks <= LAST and cell.above is not None}
    first, last = min(known, default=0), max(known, default=0)
    if first == last:
        return ["The growth of `Split().loss`: not measured."]
    growth = known[last] / known[first] - 1
    verdict = "met" if growth < GROWTH_OF_LOSS else "MISSED"
    sentences = [
        f"**Target {verdict}**: the peak of `Split().loss` and its backward, above the resting bytes and so beyond one "
        f"copy of the gradients, grows by {growth:+.4%} from {first} to {last} tasks (less than {GROWTH_OF_LOSS:.0%} "
        "was wanted)."
    ]
    summed = [cell.ratio for cell in cells if cell.tasks >= FIRST and cell.ratio is not None]
    beside = [
        median(a / b for a, b in zip(cell.seconds, other.seconds, strict=True))
        for cell, other in zip(cells, checkpointed, strict=True)
        if cell.tasks >= FIRST and cell.seconds and len(cell.seconds) == len(other.seconds)
    ]
    for ratios, wanted, name in (
        (summed, AT_MOST, "the summed loss's"),
        (beside, OF_CHECKPOINTED, "that of heads under `torch.utils.checkpoint`"),
    ):
        if ratios:
            verdict = "met" if median(ratios) <= wanted else "MISSED"
            sentences.append(
                f"**Target {verdict}**: the time of `Split().loss` and its backward is {median(ratios):.2f} of {name} "
                f"(at most {wanted} was wanted), the median over the numbers of tasks from {FIRST} on; at most "
                f"{max(ratios):.2f}."
            )
    return sentences


def why(by_family: Mapping[str, Sequence[Cell]]) -> list[str]:
    """Return sentences per family on how the ways compare with the most tasks."""
    sentences = []
    for family, cells in by_family.items():
        most = max(cell.tasks for cell in cells)
        last = {cell.way: cell for cell in cells if cell.tasks == most}
        summed = last["summed"]
        if not summed.peak:
            continue
        parts = []
        for way, cell in last.items():
            if cell.peak and way != "summed":
                time = "" if cell.ratio is None else f", {cell.ratio:.2f} of the time"
                parts.append(f"{way} {cell.peak / summed.peak:.3f} of the memory{time}")
        sentences.append(
            f"{most} {family} heads, against the summed loss ({summed.peak / MIB:.1f} MiB): {'; '.join(parts)}."
        )
        sentences += _torchjd(summed, last.get("torchjd"), last.get("torchjd by 1"))
        sentences += _batched(last["split"], last.get("split by 16"))
    return sentences


def _torchjd(summed: Cell, peer: Cell | None, one_by_one: Cell | None) -> list[str]:
    """Return a sentence on TorchJD's memory above the summed loss, and its vmapped backward's share."""
    if peer is None or not peer.peak or not summed.peak or peer.peak <= summed.peak:
        return []
    text = (
        f"TorchJD's peak with {peer.tasks} {peer.family} heads is {(peer.peak - summed.peak) / MIB:.1f} MiB above the "
        f"summed loss's. It is in `{peer.phase}`, at `{peer.operator}`, with {(peer.activations or 0) / MIB:.1f} MiB "
        f"of activations and {(peer.temporaries or 0) / MIB:.1f} of temporaries (the summed loss: "
        f"{(summed.activations or 0) / MIB:.1f} and {(summed.temporaries or 0) / MIB:.1f})."
    )
    if one_by_one is not None and one_by_one.peak:
        text += (
            f" {(peer.peak - one_by_one.peak) / MIB:.1f} MiB of it are the trunk's backward for all tasks at once: "
            f"with one backward a task (`parallel_chunk_size=1`) it is {(one_by_one.peak - summed.peak) / MIB:.1f} MiB "
            f"above the summed loss, and peaks at `{one_by_one.operator}`."
        )
    return [text]


def _batched(plain: Cell, batched: Cell | None) -> list[str]:
    """Return a sentence on the gain of several heads in one graph."""
    if batched is None or not (batched.ratio and plain.ratio and batched.above and plain.above):
        return []
    return [
        f"{plain.tasks} {plain.family} heads, 16 in a graph, take {batched.ratio:.2f} of the summed loss's time where "
        f"one in a graph takes {plain.ratio:.2f}, for {(batched.above - plain.above) / MIB:.2f} MiB more."
    ]
