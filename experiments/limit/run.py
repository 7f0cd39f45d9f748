"""The editions' memory and time relative to the least that an exact gradient needs.

python -m experiments.limit.run [--scale S] [--device cuda]     # from the repository's root; writes beside this
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from experiments.limit.picture import draw
from experiments.limit.saved import Limit, limit_of
from experiments.study import MIB, Report, parser
from mtl_accum.editions import samples_of
from mtl_accum.measure import FreshProcess, Measurement, compare
from mtl_accum.memory import Parts, PeakMemory
from mtl_accum.testing import basic_editions, build_shape
from mtl_accum.training.loop import to_device

HERE = Path(__file__).parent
# Experiment, overrides; on a CPU, its scale and samples: less than a second a step on two cores.
NETWORKS = {
    "dense3": ("dense3", (), 0.25, 4),
    "text8": ("text8", (), 0.25, 8),
    "lm_heads": ("lm_heads", (), 0.125, 4),
    "lm_heads, 8 chunks": ("lm_heads", ("model.chunks=8",), 0.125, 4),
    "lm_heads, 32 chunks": ("lm_heads", ("model.chunks=32",), 0.125, 4),
}
ROUNDS, TARGET = 15, 1.02
MEASURED = ("summed", "per_task", "split", "cached")


class Pieces:
    """The bare passes by hand: trunk, each head with its backward, the trunk's backward; without any check."""

    def forward_backward(self, trunk: Any, tasks: Any, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`."""
        z = trunk(batch)
        cut = tree_map(lambda t: t.detach().requires_grad_(t.requires_grad) if isinstance(t, Tensor) else t, z)
        losses = {}
        for name, task in tasks.items():
            loss = task(cut, batch)
            loss.backward()
            losses[name] = loss.detach()
        pairs = zip(tree_leaves(z), tree_leaves(cut), strict=True)
        roots = [(root, leaf.grad) for root, leaf in pairs if isinstance(root, Tensor) and leaf.grad is not None]
        torch.autograd.backward([root for root, _ in roots], [gradient for _, gradient in roots])
        return losses


@dataclass(frozen=True)
class Subject:
    """One network that a fresh process can import and build."""

    experiment: str
    overrides: tuple[str, ...]
    scale: float
    samples: int | None
    device: str

    def __call__(self) -> Parts:
        """Build trunk, tasks, batch and AdamW."""
        model, batch = build_shape(self.experiment, self.scale, self.samples, *self.overrides)
        model.to(self.device)
        return (
            model.trunk,
            model.tasks,
            to_device(batch, torch.device(self.device)),
            torch.optim.AdamW(model.parameters()),
        )

    def limit(self) -> tuple[Limit, int]:
        """Return the limit, and the number of samples in the batch."""
        parts = self()
        return limit_of(parts), samples_of(parts[2], "batch")


def ratio(rows: dict[str, Measurement], name: str, other: str) -> list[float]:
    """Return the quartiles of the time ratio, step by step: lower, median, upper."""
    pairs = zip(rows[name].step_seconds, rows[other].step_seconds, strict=True)
    ratios = [one / two for one, two in pairs]
    return quantiles(ratios) if len(ratios) > 1 else ratios * 3


def passes(memory: PeakMemory) -> int:
    """Return the peak of the forward and backward passes, without the optimizer's own temporaries."""
    phases = [part.peak_bytes for part in memory.timeline if part.kind in ("forward", "backward")]
    return max(phases, default=memory.peak_bytes or 0)  # a loop by hand announces none


def measure(subject: Subject, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure the limit and every edition."""
    with FreshProcess(subject) as process:
        limit, samples = process.call("limit")
    measurements = compare(
        *_NOTHING, build=subject, editions={**basic_editions(samples), "bare pieces": Pieces()}, steps=rounds
    )
    rows = {row.edition: row for row in measurements}
    figures: dict[str, Any] = {}
    for name, row in rows.items():
        if row.failure is not None:
            figures[name] = {"failure": row.failure}
            continue
        tensors = next(memory for memory in row.memory if memory.source == "tensors")
        figures[name] = {
            "peak": tensors.peak_bytes,
            "peak_phase": tensors.peak_phase,
            "passes": passes(tensors),
            "device": [asdict(memory) for memory in row.memory if memory.source == "cuda"],
            "seconds": median(row.step_seconds),
            "time_over_summed": ratio(rows, name, "summed"),
            "time_over_pieces": ratio(rows, name, "bare pieces"),
            "gradient_difference": row.gradient_difference,
        }
    return {"limit": {**asdict(limit), "budget": limit.budget, "bound": limit.bound}, "editions": figures}


_NOTHING: Any = (None, {}, None)


def memory_table(results: dict[str, Any]) -> list[list[str]]:
    """Return the table of peaks relative to the limit."""
    table = [
        ["network", "one graph at a time", "bound", *(f"{name} / one graph" for name in MEASURED), "split / bound"]
    ]
    for name, result in results.items():
        limit, rows = result["limit"], result["editions"]
        over = [f"{rows[e]['passes'] / limit['budget']:.3f}" if "passes" in rows[e] else "–" for e in MEASURED]
        sizes = [f"{limit[key] / MIB:.1f} MiB" for key in ("budget", "bound")]
        bound = f"{rows['split']['passes'] / limit['bound']:.3f}" if "passes" in rows["split"] else "–"
        table.append([name, *sizes, *over, bound])
    return table


def parts_table(results: dict[str, Any]) -> list[list[str]]:
    """Return the table of the limit's parts."""
    heading = ["network", "fixed", "gradients", "trunk saves", "z and dL/dz", "largest head saves", "all heads save"]
    keys = [
        ("fixed",),
        ("trunk_gradients", "head_gradients"),
        ("trunk",),
        ("representation", "gradient"),
        ("head",),
        ("heads",),
    ]
    rows = [[sum(result["limit"][key] for key in group) / MIB for group in keys] for result in results.values()]
    return [heading, *([name, *(f"{size:.1f} MiB" for size in row)] for name, row in zip(results, rows, strict=True))]


def time_table(results: dict[str, Any]) -> list[list[str]]:
    """Return the table of step times relative to the bare pieces and to the summed loss."""
    table = [["network", "edition", "step", "over the bare pieces", "middle half", "over summed", "middle half"]]
    for name, result in results.items():
        for edition, figures in result["editions"].items():
            if "failure" in figures:
                table.append([name, edition, figures["failure"], *["–"] * 4])
                continue
            cells = []
            for low, middle, high in (figures["time_over_pieces"], figures["time_over_summed"]):
                cells += [f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
            table.append([name, edition, f"{figures['seconds'] * 1000:.0f} ms", *cells])
    return table


def device_table(results: dict[str, Any]) -> list[list[str]]:
    """Return the table of the allocator's and NVML's figures on CUDA."""
    keys = {"peak_bytes": "allocated", "reserved_bytes": "reserved", "process_bytes": "NVML, process"}
    table = [["network", "edition", *keys.values()]]
    for name, result in results.items():
        for edition, figures in result["editions"].items():
            for memory in figures.get("device", []):
                sizes = [memory[key] for key in keys]
                table.append([name, edition, *("–" if size is None else f"{size / MIB:.0f} MiB" for size in sizes)])
    return table


def conclusions(results: dict[str, Any]) -> list[str]:
    """Return a sentence per target of Split: met, or missed by how much."""
    sentences = []
    for name, figures in results.items():
        split, limit = figures["editions"]["split"], figures["limit"]
        if "failure" in split:
            sentences.append(f"{name}: split failed: {split['failure']}")
            continue
        memory, (low, time, high) = split["passes"] / limit["budget"], split["time_over_summed"]
        by_hand = split["peak"] / figures["editions"]["bare pieces"]["peak"]
        why = f"it peaks in {split['peak_phase']}, at {by_hand:.3f} of what the bare pieces by hand need"
        sentences.append(f"{name}, memory: {memory:.3f} of one graph at a time: {_verdict(memory, f': {why}')}")
        noise = f"the middle half of its rounds is {low:.3f} to {high:.3f}"
        why = ", by less than the rounds differ" if low <= TARGET else ""
        sentences.append(f"{name}, time: {time:.3f} of the summed loss ({noise}): {_verdict(time, why)}")
    return sentences


def _verdict(value: float, why: str) -> str:
    return "met." if value <= TARGET else f"**missed** by {value - TARGET:.3f}{why}."


def write(results: dict[str, Any], device: str, scales: dict[str, float], rounds: int, folder: Path = HERE) -> None:
    """Write the report."""
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(
        folder,
        "How close to the limit?",
        "How far above what an exact gradient needs at least are the editions, in memory and in time?",
        "python -m experiments.limit.run",
    )
    draw(results, folder / "limit.png")
    report.picture("limit.png", "What one graph at a time keeps, and where the editions' peaks are")
    report.section("Split's targets", f"At most {TARGET} of the limit, and of the summed loss's time.")
    report.items(*conclusions(results))
    report.section(
        "Memory",
        "Counted from the storages that autograd saves, each once. **One graph at a time**: parameters, optimizer "
        "state, batch, all gradients, what the trunk saves, the representation and its gradient, and what the largest "
        "head saves. **Bound**: what no order of the work can avoid without computing anything twice; not all "
        "gradients are there when the largest head's graph is. The editions' figures are the highest point of live "
        "tensors in forward and backward passes, to the byte, of the third step; `cached` computes the trunk twice, "
        "and may go below (cutting the trunk's batch, it draws other dropout masks, equally valid).",
        "What neither counts is what an operator needs for itself: the backward of a cross-entropy over a vocabulary "
        "makes the gradient of the logits, as large as the log-probabilities that it has saved, before it can free "
        "them. No order of the passes avoids that; a loss in chunks makes it smaller (`model.chunks`, "
        "`Split(head_chunks=...)`). In chunks a loss makes the gradient of each chunk at once: it saves dL/d(features) "
        "and the last layer's gradient in place of the logits; its limit is counted so, too.",
    )
    report.table(memory_table(results))
    report.table(parts_table(results))
    report.section(
        "Time",
        "**Bare pieces**: the trunk's forward, each head's forward and backward and the trunk's backward written out "
        f"by hand, without any check. Steps with AdamW, {rounds} rounds, all editions in turns, each in a process of "
        "its own; a ratio is the median of the rounds'.",
    )
    report.table(time_table(results))
    if any(f.get("device") for result in results.values() for f in result["editions"].values()):
        report.section(
            "The device's own figures", "Of the whole step: the caching allocator's, and the driver's by NVML."
        )
        report.table(device_table(results))
    sizes = ", ".join(f"{name} {scale}" for name, scale in scales.items())
    report.text(f"Shapes of `mtl_accum/testing/_shapes.py` at the scales {sizes} (1 is full size), device {device}.")
    report.write({"scales": scales, "rounds": rounds, "results": results}, torch.device(device))


def main() -> None:
    """Measure and write."""
    options = parser(__doc__, HERE, "of all networks; by default what a CPU does in minutes")
    options.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = options.parse_args()
    if arguments.device != "cpu":
        arguments.scale = arguments.scale or 1.0
    results, scales = {}, {}
    for name, (experiment, overrides, scale, few) in NETWORKS.items():
        scales[name], samples = (scale, few) if arguments.scale is None else (arguments.scale, None)
        subject = Subject(experiment, overrides, scales[name], samples, arguments.device)
        results[name] = measure(subject, arguments.rounds)
        print(name, results[name], flush=True)
    write(results, arguments.device, scales, arguments.rounds, arguments.folder)


if __name__ == "__main__":
    main()
