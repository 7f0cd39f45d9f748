"""Overhead of an edition over a loop written by hand, on a tiny network.

python -m experiments.overhead.run      # from the repository's root; writes README.md and results.json beside this
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.study import Report
from mtl_accum import MultiTaskModel, PerTask, Split, SummedLoss, Task
from mtl_accum.editions import Edition, Tasks, Trunk

HEADS, WIDTH, SAMPLES, ROUNDS, STEPS = 8, 64, 32, 25, 100
COPYING = "Split, against a loop that copies its losses"

batch = {"x": torch.randn(SAMPLES, WIDTH), "y": torch.randn(SAMPLES, WIDTH)}
trunk = nn.Linear(WIDTH, WIDTH)
heads = {f"head{n}": nn.Linear(WIDTH, WIDTH) for n in range(HEADS)}
functions = {name: lambda z, b, head=head: F.mse_loss(head(z), b["y"]) for name, head in heads.items()}
model = MultiTaskModel(trunk, {name: Task(head, nn.MSELoss(), "y") for name, head in heads.items()}, "x")


def run_trunk(b: dict[str, Tensor]) -> Tensor:
    return trunk(b["x"])  # type: ignore[no-any-return]


NETWORKS = {"plain functions": (run_trunk, functions), "MultiTaskModel": (model.trunk, model.tasks)}


def summed_by_hand(run_trunk: Trunk, tasks: Tasks) -> dict[str, Tensor]:
    z = run_trunk(batch)
    losses = {name: task(z, batch) for name, task in tasks.items()}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    return {name: loss.detach() for name, loss in losses.items()}


def per_task_by_hand(run_trunk: Trunk, tasks: Tasks) -> dict[str, Tensor]:
    losses = {}
    for name, task in tasks.items():
        loss = task(run_trunk(batch), batch)
        loss.backward()
        losses[name] = loss.detach()
    return losses


def split_by_hand(
    run_trunk: Trunk, tasks: Tasks, value: Callable[[Tensor], Tensor] = Tensor.detach
) -> dict[str, Tensor]:
    """Run Split's loop by hand; `value` turns each loss into the returned one."""
    z = run_trunk(batch)
    leaf = z.detach().requires_grad_()
    losses = {}
    for name, task in tasks.items():
        loss = task(leaf, batch)
        loss.backward()
        losses[name] = value(loss)
    z.backward(leaf.grad)
    return losses


def copied(loss: Tensor) -> Tensor:
    """Detach and copy a loss, as Split does: no element-wise map stays alive behind it."""
    return loss.detach().clone()


PAIRS = {
    "SummedLoss": (SummedLoss(), summed_by_hand),
    "PerTask": (PerTask(), per_task_by_hand),
    "Split": (Split(), split_by_hand),
    COPYING: (Split(), partial(split_by_hand, value=copied)),
}


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def measure(network: tuple[Trunk, Tasks], edition: Edition, by_hand: Callable[..., object]) -> dict[str, Any]:
    """Time both loops in turns: seconds per step, ratio per round, and the extra cost per head."""
    ours, theirs = partial(edition.forward_backward, *network, batch), partial(by_hand, *network)
    for step in (ours, theirs):
        seconds(step)
    gc.disable()  # a collection would fall into one of the two
    rounds = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    gc.enable()
    gc.collect()
    step_seconds, by_hand_seconds = (median(column) for column in zip(*rounds, strict=True))
    ratios = sorted(a / b for a, b in rounds)
    return figures(step_seconds, by_hand_seconds, median(ratios), ratios[0], ratios[-1])


def figures(step_seconds: float, by_hand_seconds: float, ratio: float, low: float, high: float) -> dict[str, Any]:
    """Return the figures of an edition for the report."""
    return {
        "step_seconds": step_seconds,
        "by_hand_seconds": by_hand_seconds,
        "ratio": {"median": ratio, "low": low, "high": high},
        "a_head_seconds": (step_seconds - by_hand_seconds) / HEADS,
    }


def write(measured: dict[str, dict[str, dict[str, Any]]], folder: Path) -> None:
    """Write the page and the JSON; figures by kind of network, then by edition."""
    page = Report(
        folder,
        "What does an edition cost over the loop written by hand?",
        "Where the network costs next to nothing, what does an edition add to the loop that one would write?",
        "python -m experiments.overhead.run",
    )
    page.text(
        f"A trunk and {HEADS} heads of one Linear {WIDTH}x{WIDTH} each, batch {SAMPLES}, CPU, one thread, no garbage "
        f"collection: so little work that what an edition does around it shows. {ROUNDS} interleaved rounds of {STEPS} "
        "steps. Ratios are taken round by round."
    )
    head = ["edition", "trunk and tasks", "its step, µs", "by hand, µs", "ratio, median", "ratio, smallest to largest"]
    rows = [_row(name, kind, of) for kind, editions in measured.items() for name, of in editions.items()]
    page.table([head, *rows])
    bare, copying = (measured["plain functions"][name] for name in ("Split", COPYING))
    page.text(
        f"The target for `Split` is 1.10 with plain functions as tasks: {bare['ratio']['median']:.3f} against the bare "
        f"loop, {copying['ratio']['median']:.3f} against one that copies its losses as `Split` does (the 0-dim result "
        f"of `mse_loss` keeps its element-wise map alive, here {SAMPLES * WIDTH * 4 // 1024} KiB a task, until it is "
        f"copied). With `Task` modules it is {measured['MultiTaskModel']['Split']['ratio']['median']:.3f}: each is "
        "asked whether its target is in the batch. What an edition adds is a fixed number of microseconds a head, by "
        f"`Split` {1e6 * bare['a_head_seconds']:.1f} beside {1e6 * bare['by_hand_seconds'] / HEADS:.0f} of them; "
        "`PerTask` also saves and restores the random state for every task."
    )
    page.write({"heads": HEADS, "editions": measured}, torch.device("cpu"))


def _row(name: str, kind: str, of: dict[str, Any]) -> list[str]:
    ratio = of["ratio"]
    steps = [f"{1e6 * of[key]:.0f}" for key in ("step_seconds", "by_hand_seconds")]
    return [name, kind, *steps, f"{ratio['median']:.3f}", f"{ratio['low']:.3f} to {ratio['high']:.3f}"]


def main() -> None:
    """Time every pair and write the report."""
    torch.set_num_threads(1)
    measured: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in NETWORKS}
    for (kind, network), (name, (edition, by_hand)) in product(NETWORKS.items(), PAIRS.items()):
        measured[kind][name] = measure(network, edition, by_hand)
        print(*_row(name, kind, measured[kind][name]), sep=" | ", flush=True)
    write(measured, Path(__file__).parent)


if __name__ == "__main__":
    main()
