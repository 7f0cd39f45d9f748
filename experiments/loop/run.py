"""What the whole training loop costs over one written by hand: same model, data, optimizer, no logging.

python -m experiments.loop.run      # from the repository's root; writes README.md beside this
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import nn

from mtl_accum import MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.training import Loop, Training

CPU, ROUNDS, STEPS, SAMPLES = torch.device("cpu"), 41, 40, 64


def network(width: int, depth: int) -> MultiTaskModel:
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1))]
    tasks = {
        name: Task(nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)), nn.MSELoss(), "y")
        for name in "abcd"
    }
    return MultiTaskModel(nn.Sequential(*layers), tasks, "x")


class Batches:
    """An epoch of data which notes when each batch is asked for, on the clock of what this process has computed."""

    def __init__(self, width: int) -> None:
        self._batches = [{"x": torch.randn(SAMPLES, width), "y": torch.randn(SAMPLES, 1)} for _ in range(STEPS)]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self.asked: list[float] = []
        for batch in self._batches:
            self.asked.append(time.process_time())
            yield batch

    def seconds(self) -> float:
        """Of a step: the median, which a disturbance of the machine does not move; nor does what happens once a run."""
        return median(later - earlier for earlier, later in zip(self.asked, self.asked[1:], strict=False))


def by_hand_summed(net: MultiTaskModel, batches: Batches, optimizer: torch.optim.Optimizer) -> None:
    for batch in batches:
        optimizer.zero_grad()
        z = net.trunk(batch)
        sum(task(z, batch) for task in net.tasks.values()).backward()
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


def ours(edition: object) -> Callable:
    def run(net: MultiTaskModel, batches: Batches, optimizer: torch.optim.Optimizer) -> None:
        Training(net, batches, [edition], optimizer, Loop(epochs=1), device=CPU).run()

    return run


def seconds(loop: Callable, net: MultiTaskModel, batches: Batches) -> float:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    gc.collect()
    loop(net, batches, optimizer)
    return batches.seconds()


PAIRS = {"SummedLoss": (ours(SummedLoss()), by_hand_summed), "Split": (ours(Split()), by_hand_split)}
SIZES = {"small": (64, 2), "medium": (192, 3), "large": (320, 4)}


def main() -> None:
    """Time both loops in turns and write the report."""
    torch.set_num_threads(1)
    rows = [
        "| network | edition | by hand | the loop | ratio | of half of the rounds |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for size, (width, depth) in SIZES.items():
        batches = Batches(width)
        for name, (loop, by_hand) in PAIRS.items():
            nets = network(width, depth), network(width, depth)
            sides = [(loop, nets[0]), (by_hand, nets[1])]
            ours_, theirs, ratios = [], [], []
            for number in range(ROUNDS + 1):
                found = {side: seconds(*side, batches) for side in (sides if number % 2 else sides[::-1])}
                if number:  # the first round does not count
                    ours_.append(1000 * found[sides[0]])
                    theirs.append(1000 * found[sides[1]])
                    ratios.append(ours_[-1] / theirs[-1])
            low, _, high = quantiles(ratios)
            rows.append(
                f"| {size} | {name} | {median(theirs):.2f} ms | {median(ours_):.2f} ms | {median(ratios):.3f} "
                f"| {low:.3f} to {high:.3f} |"
            )
            print(rows[-1], flush=True)
    lines = [
        "# What the training loop costs",
        "",
        "Question: how much slower is the whole loop (reading losses late, checks, phases) than one by hand?",
        "",
        "`python -m experiments.loop.run`: four heads, AdamW, dropout, the two loops in turns,",
        f"{ROUNDS} rounds of {STEPS} steps; one thread, {platform.machine()}, torch {torch.__version__}; no logger, no",
        "checkpoint. A round's figure is the median of its steps; the ratio is the median of the rounds' ratios,",
        "beside the middle half of them. The loop by hand does not read its losses; ours does, every ten steps.",
        "The target: at most 1.03 at steps of 10 ms.",
        "",
        *rows,
        "",
    ]
    (Path(__file__).parent / "README.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
