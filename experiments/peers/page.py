"""Page of the comparison with peers: tables and conclusions, computed from the figures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from statistics import median, quantiles

import torch

from experiments.peers.bench import STEPS
from experiments.peers.networks import SITUATIONS
from experiments.peers.outcome import EXACT, Outcome, reference_in
from experiments.peers.picture import draw
from experiments.peers.rows import HAND, OURS, PEER
from experiments.study import MIB, Report

__all__ = ["ROUNDS", "write"]

QUESTION = (
    "The same network, weights, data order and optimizer through this project, by hand, and through the libraries "
    "that people would take instead: how much memory, how much time, how much code, and is it the same gradient?"
)
ROUNDS = 7  # timed steps of every row, by default
COMMAND = "python -m experiments.peers.run"
INSTALL = (
    "The libraries live in an environment of their own:",
    "    python -m venv peers && . peers/bin/activate\n"
    "    pip install -c constraints.txt -e . -r experiments/peers/requirements-peers.txt\n"
    "    pip install --no-deps LibMTL==1.1.5    # alone: it would bring a torchvision that does not fit torch's build",
    "A library that is not there is a row that says so; the study runs without any of them.",
)


def write(outcomes: Sequence[Outcome], arguments: argparse.Namespace) -> None:
    """Write README.md, results.json and peers.png."""
    groups = {name: [item for item in outcomes if item.row.situation == name] for name in arguments.situations}
    given = {"device": "cpu", "rounds": ROUNDS, "threads": 1}
    chosen = [f"--{key} {getattr(arguments, key)}" for key, usual in given.items() if getattr(arguments, key) != usual]
    command = " ".join([COMMAND, *chosen])
    report = Report(arguments.folder, "Beside other libraries", QUESTION, command)
    report.text(*INSTALL)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    draw(groups, arguments.folder / "peers.png")
    report.picture("peers.png", "Peak of live tensors and time of a step for every row, in three situations")
    report.section("Conclusions")
    report.items(*(line for group in groups.values() for line in _conclusions(group)), *REMARKS)
    report.section("How", *_how(arguments))
    for name, group in groups.items():
        situation = SITUATIONS[name]
        report.section(situation.title, f"{situation.about} {situation.size(arguments.scale)}.")
        report.table([_heading(group), *(_row(item, reference_in(group)) for item in group)])
        report.items(*(f"{item.row.name}: {item.row.remark}." for item in group if item.row.remark))
    _failures(report, outcomes)
    settings = {key: getattr(arguments, key) for key in ("scale", "rounds", "threads")}
    rows = [item.as_json() for item in outcomes]
    report.write({"settings": settings, "rows": rows}, torch.device(arguments.device))


REMARKS = (
    "TorchJD is made for aggregating gradients that conflict (UPGrad, MGDA and others), which needs "
    "every task's gradient "
    "by itself; a plain sum does not. Its rows show what that generality costs where only the sum is "
    "wanted, not that it "
    "does its own work badly. LibMTL is made for comparing weightings; Accelerate and Lightning for devices, precision "
    "and loops.",
    "Cutting the batch, as Cached and Accumulated do, is open to the loops of the other rows too; it is shown for this "
    "project only.",
    "One machine, networks chosen so that the heads (or the batch, or the logits) need most of the "
    "memory. Where the trunk "
    "needs most of it, all rows of the first table come close together.",
)


def _how(arguments: argparse.Namespace) -> Iterator[str]:
    turns = "in turns, round by round" if arguments.device == "cpu" else "one row after the other"
    yield (
        f"Every row runs in fresh processes: one is timed ({arguments.rounds} steps, {turns}, each "
        "after one that warms up; "
        f"{arguments.threads} thread(s) of the CPU), another is weighed (C allocator tuned to give "
        "memory back), both in "
        "float32. A step begins when the loop gets its batch and ends when it asks for the next one, "
        "whoever wrote the loop. "
        "Time is relative to the first row's step of the same round: the median, and from the "
        "fastest to the slowest round. "
        "Live tensors are the bytes of all tensor storages at the peak, process the peak of resident "
        "memory (and its rise "
        "over what rested before the step)."
    )
    yield (
        f"The difference is that of the weights' movement after {STEPS} steps on a small batch in "
        "float64 to the first row's "
        "(largest over the parameters, relative; 0: the same to the last bit, 1: not moved at all), "
        "without dropout and with "
        f"it, the seed set before each step. At most {EXACT:.0e} without dropout is the same "
        "gradient; more than that with "
        "dropout means that the method draws other masks, which are as valid. Lines are statements "
        "of the function that "
        "the row runs (imports, model, optimizer and loop), counted by code. SGD without momentum: no optimizer state."
    )


def _heading(group: Sequence[Outcome]) -> list[str]:
    cuda = ["allocator, peak"] if any("cuda" in item.memory for item in group) else []
    memory = ["live tensors, peak", "memory / first", *cuda, "process, peak (rise)"]
    return ["method", "", *memory, "time / first", "difference", "with dropout", "lines"]


def _row(item: Outcome, reference: Outcome) -> list[str]:
    """Return a row of a table; its failure in place of figures."""
    start = [item.row.name, f"{item.row.kind}{'' if item.row.version() is None else f' ({item.row.version()})'}"]
    cuda = "cuda" in reference.memory
    if item.failure is not None:
        return [*start, f"not measured: {item.failure}", *["–"] * (5 + cuda), str(item.row.lines())]
    peak, whole = item.peak(), reference.peak()
    ratios = item.times(reference)
    without, with_ = item.differences or (float("nan"), float("nan"))
    return [
        *start,
        _mib(peak),
        f"{peak / whole:.2f}" if peak and whole else "–",
        *([_mib(item.peak("cuda"))] if cuda else []),
        f"{_mib(item.peak('process'))} (+{_mib(item.rise('process'))})" if "process" in item.memory else "–",
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "–",
        f"{without:.1e}" if item.exact() else f"**{without:.1e}**",
        f"{with_:.1e}",
        str(item.row.lines()),
    ]


def _conclusions(group: Sequence[Outcome]) -> Iterator[str]:
    """Return the conclusions from a situation's figures."""
    reference, title = reference_in(group), SITUATIONS[group[0].row.situation].title
    measured = [item for item in group if item.failure is None]
    if reference.failure is not None:
        yield f"{title}: the row to compare with failed, {reference.failure}"
        return
    best = {}
    for kind in (HAND, OURS, PEER):
        exact = [item for item in measured if item.row.kind == kind and item.exact()]
        if exact:
            best[kind] = min(exact, key=lambda item: item.peak() or 0)
    leanest = "; ".join(f"{kind}: {_said(item, reference)}" for kind, item in best.items())
    yield f"**{title}**: {_said(reference, reference)}. The least memory with the same gradient, {leanest}."
    leaner = [i for i in measured if i.exact() and (i.peak() or 0) < 0.95 * (reference.peak() or 0)]
    if leaner:
        fastest = min(leaner, key=lambda item: item.time(reference) or 0.0)
        yield f"Of the {len(leaner)} that need at least 5 % less memory the fastest is {_said(fastest, reference)}."
    exact = [item for item in measured if item.exact()]
    wrong = [item for item in measured if not item.exact()]
    sentence = f"The same gradient in {len(exact)} of {len(measured)} rows that ran"
    yield sentence + (f"; not in {', '.join(i.row.name for i in wrong)}." if wrong else ".")
    other = [item.row.name for item in exact if not item.same_masks()]
    if other:
        yield f"With dropout these train with other masks: {', '.join(other)}."
    names = {item.row.name: item for item in measured}
    if {"cut by hand", "Split", "cut in a loop"} <= names.keys():
        mine, hand = names["Split"], names["cut by hand"]
        yield (
            f"Split and the same cut by hand are one algorithm: {_said(mine, reference)} against "
            f"{_said(hand, reference)}. What the library adds to these lines is not speed but "
            "what they do not do: "
            "any container, absent tasks, counts, 16-bit sums, refusals, check."
        )
    if {"Split().loss", "heads under checkpoint"} <= names.keys():
        loss, hand = names["Split().loss"], names["heads under checkpoint"]
        yield (
            f"For a loop that runs the backward itself: {_said(loss, reference)}, beside what anybody can write, "
            f"{_said(hand, reference)}."
        )
    low, _, high = quantiles(_noise(measured), n=4) if len(measured) > 1 else (0.0, 0.0, 0.0)
    spans = f"{low:.0%} to {high:.0%} of its median (half of the rows)"
    yield f"Noise: from its fastest to its slowest round a row's time spans {spans}."


def _noise(measured: Sequence[Outcome]) -> list[float]:
    return [(max(item.seconds) - min(item.seconds)) / median(item.seconds) for item in measured]


def _said(item: Outcome, reference: Outcome) -> str:
    return f"{item.row.name} ({_mib(item.peak())}, {item.time(reference):.2f} of the time, {item.row.lines()} lines)"


def _failures(report: Report, outcomes: Sequence[Outcome]) -> None:
    report.section("What did not work")
    failed = [f"{item.row.name}: {item.failure}." for item in outcomes if item.failure is not None]
    wrong = [
        f"{item.row.name}: the weights end {item.differences[0]:.1e} away from the first row's."
        for item in outcomes
        if item.differences is not None and not item.exact()
    ]
    report.items(*failed, *wrong, *NOT_HERE)


NOT_HERE = (
    "LibMTL as it is on PyPI: `import LibMTL` fails without torchvision, and with a current one too; "
    "its Trainer needs a GPU.",
    "`pip install grad-cache`: there is no such package on PyPI; `gradcache` is an older state of it.",
)


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / MIB:.1f} MiB"
