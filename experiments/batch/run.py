"""The largest batch that every edition trains within a fixed memory budget, by trial.

python -m experiments.batch.run            # from the repository's root; writes README.md, results.json, batch.png
python -m experiments.batch.run --device cuda         # within 6 GiB of a GPU, out-of-memory errors are the judge
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from experiments.batch.measure import Row, Scales, search, time_rows
from experiments.batch.picture import draw
from experiments.batch.trial import EDITIONS, HEADS, NETWORKS, PIECES, Trial, weigh
from experiments.load import loads, noise
from experiments.study import MIB, Report, parser
from mtl_accum.training.loop import resolve_device

HERE = Path(__file__).parent
COMMAND = "python -m experiments.batch.run"
BUDGET = 12 * MIB  # at scale 1
FULL_SIZE = 512.0  # 6 GiB
STEP = 16 * MIB  # to whose multiples the memory of a process with one sample is rounded up
ROUNDS, CAP, START, RESOLUTION = 5, 4096, 16, 1 / 32
SIZES: dict[str, dict[str, dict[str, int]]] = {
    "cpu": {"dense heads": {"width": 8, "size": 16}, "transformer": {"width": 32, "length": 32}},
    "cuda": {"dense heads": {"width": 32, "size": 64}, "transformer": {"width": 512, "length": 256}},
}


def measure(
    device: torch.device,
    budget: int,
    *,
    sizes: Mapping[str, Mapping[str, int]],
    cap: int = CAP,
    resolution: float = RESOLUTION,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Measure every edition on every network: within the budget, and on the CPU within a limit on the process too."""
    limits = {"allocator": budget} if device.type == "cuda" else {"tensors": budget}
    if device.type == "cpu":
        network = next(iter(NETWORKS))
        smallest = weigh(Trial(network, "summed", 1, tuple(sizes[network].items()), device))
        if smallest is not None and smallest.process is not None:
            limits["process"] = -(-smallest.process // STEP) * STEP + budget
    main, *_ = limits
    measured = []
    for network in NETWORKS:
        hint = dict.fromkeys(limits, START)
        rows = []
        for edition in EDITIONS:
            of_cuda = budget if main == "allocator" else None
            one = Trial(network, edition, 0, tuple(sizes[network].items()), device, of_cuda)
            scales = Scales(lambda batch, one=one: replace(one, batch=batch))  # type: ignore[misc]
            for of, limit in limits.items():
                row = Row(network, edition, limit, of)
                search(scales, row, cap=cap, start=hint[of], resolution=resolution)
                hint[of] = max(1, row.batch)  # the next edition's search begins here
                rows.append(row)
                print(network, edition, of, row.batch, f"{len(row.tries)} trials", flush=True)

        def trial(row: Row, network: str = network, limit: int | None = of_cuda) -> Trial:
            return Trial(network, row.edition, row.batch, tuple(sizes[network].items()), device, limit)

        time_rows([row for row in rows if row.of == main], trial, rounds, in_turns=device.type == "cpu")
        measured += rows
    return measured


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Return the table of one limit."""
    timed = any(row.seconds for row in rows)
    heading = ["network", "edition", "largest batch", "batch / summed", "used of the limit", "trials"]
    lines = [[*heading, *(["step, ms", "samples / s", "speed / summed"] if timed else [])]]
    for row in rows:
        lines.append([row.network, row.edition, str(row.batch), _times(row, rows), _used(row), str(len(row.tries))])
        if timed:
            step = f"{1000 * median(row.seconds):.1f}" if row.seconds else "–"
            lines[-1] += [step, "–" if row.speed is None else f"{row.speed:.0f}"]
            lines[-1] += ["–" if row.ratio is None else f"{row.ratio:.2f}"]
    return lines


def conclusions(rows: Sequence[Row]) -> list[str]:
    """Return the conclusions, computed from the figures."""
    sentences = []
    for network in dict.fromkeys(row.network for row in rows):
        mine = [row for row in rows if row.network == network]
        summed = mine[0]
        if not summed.batch:
            sentences.append(f"{network}: not even a batch of 1 fits under the summed loss.")
            continue
        parts = [
            f"{row.edition} {row.batch / summed.batch:.2f} times"
            + ("" if row.ratio is None else f" at {row.ratio:.2f} of the speed")
            for row in mine[1:]
        ]
        sentences.append(f"{network}, against the summed loss's batch of {summed.batch}: {'; '.join(parts)}.")
        largest = max(mine, key=lambda row: row.batch)
        fastest = max((row for row in mine if row.ratio), key=lambda row: row.ratio or 0, default=None)
        text = f"{network}: the largest batch is {largest.edition}'s"
        sentences.append(text + (f", the most samples a second {fastest.edition}'s." if fastest else "."))
    over = [row for row in rows if row.used is not None and row.used > row.limit]
    sentences.append(f"Answers over their limit: {len(over)} of {len(rows)}.")
    return sentences


def main(arguments: Sequence[str] | None = None, folder: Path = HERE) -> None:
    """Measure and write the report."""
    scales = f"times {BUDGET // MIB} MiB; 1 on the CPU, {FULL_SIZE:g} on CUDA"
    asked = parser(__doc__, folder, scales).parse_args(arguments)
    device = resolve_device(asked.device)
    scale = asked.scale or (FULL_SIZE if device.type == "cuda" else 1.0)
    budget = round(scale * BUDGET)
    before = loads()
    measured = measure(device, budget, sizes=SIZES[device.type])
    write(measured, scale, device, asked.folder, (before, loads()))


def write(
    measured: Sequence[Row],
    scale: float,
    device: torch.device,
    folder: Path,
    load: tuple[float | None, float | None],
) -> None:
    """Write the report and its picture.

    Args:
        measured: Rows to report.
        scale: Factor on the budget.
        device: Device of the measurements.
        folder: Folder of the files.
        load: Load of the machine, before and after.
    """
    budget = measured[0].limit
    kinds = list(dict.fromkeys(row.of for row in measured))
    rows = {of: [row for row in measured if row.of == of] for of in kinds}
    first = rows[kinds[0]]
    panels = {
        network: [(row.edition, row.batch, _beside(row, first)) for row in first if row.network == network]
        for network in NETWORKS
    }
    draw(panels, folder / "batch.png", f"Largest batch within {_shown(budget)} of {WORDS[kinds[0]]}")
    report = Report(folder, "The largest batch within a budget", QUESTION, COMMAND)
    report.picture("batch.png", "The largest batch of every edition within the budget")
    report.section("Conclusion")
    report.items(*conclusions(first), noise(*load))
    report.text(*HOW)
    for of in kinds:
        report.section(f"Within {_shown(rows[of][0].limit)} of {WORDS[of]}")
        report.table(table(rows[of]))
        failures = [f"{row.network}, {row.edition}: {row.failure}" for row in rows[of] if row.failure]
        report.items(*jumps(rows[of]), *failures)
    content: dict[str, Any] = {
        "scale": scale,
        "load": load,
        "resolution": RESOLUTION,
        "rows": [asdict(row) for row in measured],
    }
    report.write(content, device)


def jumps(rows: Sequence[Row]) -> list[str]:
    """Return a caveat where a larger batch measured less than a smaller one: the answer may be too small."""
    sentences = []
    for row in rows:
        sizes = [size for _, size in sorted(row.tries.items()) if size is not None]
        falls = [before - after for before, after in pairwise(sizes) if after < before]
        if falls:
            sentences.append(f"{row.network}, {row.edition} (down by {max(falls) / MIB:.2f} MiB)")
    if not sentences:
        return []
    return [
        f"A larger batch measured less than a smaller one, so that the answer may be too small: {'; '.join(sentences)}."
    ]


def _times(row: Row, rows: Sequence[Row]) -> str:
    summed = next(other for other in rows if other.network == row.network)
    return f"{row.batch / summed.batch:.2f}" if summed.batch else "–"


def _used(row: Row) -> str:
    if row.used is None:
        return "–"
    driver = "" if row.driver is None else f", NVML {_shown(row.driver)}"
    return f"{_shown(row.used)} ({row.used / row.limit:.1%}{driver})"


def _beside(row: Row, rows: Sequence[Row]) -> str:
    speed = "" if row.speed is None else f", {row.speed:.0f} samples/s"
    return f"{row.batch} ({_times(row, rows)}x{speed})"


def _shown(size: int) -> str:
    return f"{size / MIB:.1f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"


WORDS = {
    "tensors": "live tensors",
    "process": "resident memory, interpreter and libraries included",
    "allocator": "the CUDA allocator's pool",
}
QUESTION = (
    "How large a batch trains within a fixed budget under every edition, and how many samples a second are that? "
    "Found by trying, not by a formula."
)
HOW = (
    "**How.** Doubling and bisection on the batch; every trial is a process of its own that makes the network, takes "
    "two steps (AdamW) and measures the next one's peak. On the CPU a trial fits if the peak of its live tensors, "
    "counted to the byte, is within the budget; in the second table, if its whole resident memory is within a limit: "
    "what such a process holds with one sample under the summed loss, rounded up to 16 MiB, and the budget. On CUDA "
    "the allocator gets no more than the budget, and a trial fits if it does not run out. The next larger batch that "
    f"was tried and did not fit is at most {RESOLUTION:.1%} above the answer, or one sample. Samples a second are "
    "timed at the first table's batches, on the CPU in turns.",
    f"*dense heads* is the many_tasks model with {HEADS} tasks, *transformer* has three blocks and four token heads of "
    f"one block each. *cached* cuts the trunk's batch into {PIECES} chunks; *accumulated* is "
    f"`Accumulated(SummedLoss(), {PIECES})`. Accumulation has no largest batch of its own: with more micro-batches it "
    "takes any, down to one sample in each, and pays with small kernels; it cuts the heads' batch too, which the other "
    "editions here leave whole (contrastive losses and batch statistics in heads need that).",
)

if __name__ == "__main__":
    main()
