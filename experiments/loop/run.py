"""What the whole training loop costs over one written by hand: same model, data, optimizer, no logging.

python -m experiments.loop.run      # from the repository's root; writes README.md beside this
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

from mtl_accum import MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.training import Loop, Training

CPU, ROUNDS, STEPS, SAMPLES = torch.device("cpu"), 15, 100, 64


def network(width: int, depth: int) -> MultiTaskModel:
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1))]
    tasks = {
        name: Task(nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)), nn.MSELoss(), "y")
        for name in "abcd"
    }
    return MultiTaskModel(nn.Sequential(*layers), tasks, "x")


def data(width: int) -> list[dict[str, torch.Tensor]]:
    return [{"x": torch.randn(SAMPLES, width), "y": torch.randn(SAMPLES, 1)} for _ in range(STEPS)]


def by_hand_summed(net: MultiTaskModel, batches: list, optimizer: torch.optim.Optimizer) -> None:
    for batch in batches:
        optimizer.zero_grad()
        z = net.trunk(batch)
        sum(task(z, batch) for task in net.tasks.values()).backward()
        optimizer.step()


def by_hand_split(net: MultiTaskModel, batches: list, optimizer: torch.optim.Optimizer) -> None:
    for batch in batches:
        optimizer.zero_grad()
        z = net.trunk(batch)
        leaf = z.detach().requires_grad_()
        for task in net.tasks.values():
            task(leaf, batch).backward()
        z.backward(leaf.grad)
        optimizer.step()


def ours(edition: object) -> Callable:
    def run(net: MultiTaskModel, batches: list, optimizer: torch.optim.Optimizer) -> None:
        Training(net, batches, [edition], optimizer, Loop(epochs=1), device=CPU).run()

    return run


def seconds(loop: Callable, net: MultiTaskModel, batches: list) -> float:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    gc.collect()
    started = time.perf_counter()
    loop(net, batches, optimizer)
    return (time.perf_counter() - started) / len(batches)


PAIRS = {"SummedLoss": (ours(SummedLoss()), by_hand_summed), "Split": (ours(Split()), by_hand_split)}
SIZES = {"small": (64, 2), "medium": (192, 3), "large": (320, 4)}


def main() -> None:
    """Time both loops in turns and write the report."""
    torch.set_num_threads(1)
    rows = [
        "| network | edition | by hand | the loop | ratio, median of the rounds | ratio of the fastest rounds |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for size, (width, depth) in SIZES.items():
        batches = data(width)
        for name, (loop, by_hand) in PAIRS.items():
            nets = network(width, depth), network(width, depth)
            times = [(seconds(loop, nets[0], batches), seconds(by_hand, nets[1], batches)) for _ in range(ROUNDS + 1)]
            times = times[1:]
            ratio = median(one / other for one, other in times)
            ours_, theirs = (sorted(1000 * side for side in sides) for sides in zip(*times, strict=True))
            rows.append(
                f"| {size} | {name} | {theirs[0]:.2f} to {theirs[-1]:.2f} ms | {ours_[0]:.2f} to {ours_[-1]:.2f} ms "
                f"| {ratio:.3f} | {ours_[0] / theirs[0]:.3f} |"
            )
            print(rows[-1], flush=True)
    lines = [
        "# What the training loop costs",
        "",
        "Question: how much slower is the whole loop (reading losses late, undoing steps, checks) than one by hand?",
        "",
        f"`python -m experiments.loop.run`: four heads, AdamW, dropout, {STEPS} steps a round, the two loops in turns,",
        f"{ROUNDS} rounds after a first one that does not count; one thread, {platform.machine()},",
        f"torch {torch.__version__}.",
        "No logger, no checkpoint. The target: at most 1.03 at steps of 10 ms. The machine is shared: the",
        "fastest rounds are those that nobody disturbed.",
        "",
        *rows,
        "",
    ]
    (Path(__file__).parent / "README.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
