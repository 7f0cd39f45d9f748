"""Overhead of the training loop over one written by hand: same model, data, optimizer, no logging.

python -m experiments.loop.run      # from the repository's root; writes README.md beside this
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

from experiments.study import Report
from mtl_accum import Edition, MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.memory import keep_freed_memory
from mtl_accum.training.loop import TrainConfig, Training

CPU, ROUNDS, STEPS, SAMPLES, TARGET = torch.device("cpu"), 41, 40, 64, 1.03


def network(width: int, depth: int) -> MultiTaskModel:
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1))]
    tasks = {
        name: Task(nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)), nn.MSELoss(), "y")
        for name in "abcd"
    }
    return MultiTaskModel(nn.Sequential(*layers), tasks, "x")


class Batches:
    """An epoch of data that records when each batch is fetched, in seconds of CPU time of this process."""

    def __init__(self, width: int) -> None:
        self._batches = [{"x": torch.randn(SAMPLES, width), "y": torch.randn(SAMPLES, 1)} for _ in range(STEPS)]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self.asked: list[float] = []
        for batch in self._batches:
            self.asked.append(time.process_time())
            yield batch

    def seconds(self) -> float:
        """Return the median seconds of a step, insensitive to disturbances and to work done once per run."""
        return median(later - earlier for earlier, later in zip(self.asked, self.asked[1:], strict=False))


Step = Callable[[MultiTaskModel, Batches, torch.optim.Optimizer], None]


def by_hand_summed(net: MultiTaskModel, batches: Batches, optimizer: torch.optim.Optimizer) -> None:
    for batch in batches:
        optimizer.zero_grad()
        z = net.trunk(batch)
        total: Any = sum(task(z, batch) for task in net.tasks.values())
        total.backward()
        optimizer.step()


def by_hand_split(net: MultiTaskModel, batches: Batches, optimizer: torch.optim.Optimizer) -> None:
    for batch in batches:
        optimizer.zero_grad()
        z = net.trunk(batch)
        leaf = z.detach().requires_grad_()
        for task in net.tasks.values():
            task(leaf, batch).backward()
        z.backward(leaf.grad)
        optimizer.step()


def ours(edition: Edition) -> Step:
    def run(net: MultiTaskModel, batches: Batches, optimizer: torch.optim.Optimizer) -> None:
        Training(net, batches, [edition], optimizer, TrainConfig(epochs=1), device=CPU).run()

    return run


def seconds(loop: Step, net: MultiTaskModel, batches: Batches) -> float:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    gc.collect()
    loop(net, batches, optimizer)
    return batches.seconds()


PAIRS = {"SummedLoss": (ours(SummedLoss()), by_hand_summed), "Split": (ours(Split()), by_hand_split)}
SIZES = {"small": (64, 2), "medium": (192, 3), "large": (320, 4)}


def measure(width: int, depth: int, name: str, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Measure the seconds per step of both loops, in turns."""
    batches, nets = Batches(width), (network(width, depth), network(width, depth))
    sides = {"loop": (PAIRS[name][0], nets[0]), "by hand": (PAIRS[name][1], nets[1])}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side in sides if number % 2 else reversed(sides):
            taken = seconds(*sides[side], batches)
            if number:  # the first round does not count
                times[side].append(taken)
    return times


def ratios(times: dict[str, list[float]]) -> tuple[float, float, float, float]:
    """Return the quartiles of the rounds' ratios, and the ratio of both loops' fastest rounds."""
    low, middle, high = quantiles(one / other for one, other in zip(times["loop"], times["by hand"], strict=True))
    return low, middle, high, min(times["loop"]) / min(times["by hand"])


def main() -> None:
    """Time both loops in turns and write the report."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command line does
    results, rows, verdicts = {}, [HEADING], []
    for size, (width, depth) in SIZES.items():
        for name in PAIRS:
            times = results[f"{size}, {name}"] = measure(width, depth, name)
            low, middle, high, fastest = ratios(times)
            by_hand, ours_ = (1000 * median(times[side]) for side in ("by hand", "loop"))
            cells = [
                f"{by_hand:.2f} ms",
                f"{ours_:.2f} ms",
                f"{middle:.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{fastest:.3f}",
            ]
            rows.append([size, name, *cells])
            print(*rows[-1], flush=True)
            if by_hand > 8:
                verdict = (
                    "met" if middle <= TARGET else "met by the fastest rounds" if fastest <= TARGET else "**missed**"
                )
                verdicts.append(
                    f"{name}, steps of {by_hand:.1f} ms: {middle:.3f}, of the fastest rounds {fastest:.3f}: {verdict}."
                )
    report = Report(
        Path(__file__).parent,
        "What the training loop costs",
        "How much slower is the whole loop (reading losses late, checks, phases) than one written by hand?",
        "python -m experiments.loop.run",
    )
    report.text(f"The target: at most {TARGET} at steps of 10 ms.")
    report.items(*verdicts)
    report.table(rows, "rounds")
    report.text(HOW)
    report.write({"seconds": results}, CPU)


HEADING = ["network", "edition", "by hand", "the loop", "ratio", "of half of the rounds", "of the fastest rounds"]
HOW = (
    f"Four heads, AdamW, dropout; the two loops in turns, {ROUNDS} rounds of {STEPS} steps after one that does not "
    "count, in one thread; no logger, no checkpoint. Seconds are those of the processor, not of the clock on the wall: "
    "other processes disturb them less. A round's figure is the median of its steps, so what happens once a run does "
    "not count; the ratio is the median of the rounds' ratios, beside the middle half of them. The loop by hand does "
    "not read its losses; ours does, every ten steps."
)

if __name__ == "__main__":
    main()
