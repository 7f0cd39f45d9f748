"""Where the lines of the saw run: live bytes against the progress of one step, and the phases below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mtl_accum.report._breakdown import phase_label
from mtl_accum.report._table import mib

__all__ = ["Block", "blocks", "points"]

_MOST_BLOCKS = 400  # of the phases of one edition
_SHORTENED = 0.08  # of the rest, for what follows the last backward: an optimizer may have thousands of operators


@dataclass(frozen=True)
class Block:
    """A phase in the ribbon below the lines.

    Attributes:
        start: where it begins, in per cent of the step.
        end: where it ends.
        kind: "forward", "backward", "optimizer" or "zero_grad".
        name: "trunk", "digit"; the colour says forward or backward.
        words: its full name and its peak.
    """

    start: float
    end: float
    kind: str
    name: str
    words: str


def points(found: Mapping[str, Any]) -> Iterator[tuple[float, int, str]]:
    """Progress in per cent, live bytes and the phase, after every operator that was kept."""
    phases, spans, at = found["timeline"], list(_spans(found)), 0
    curve = found.get("curve") or [
        point
        for index, phase in enumerate(phases)
        for point in ((index + 0.5, phase["peak_bytes"]), (index + 1, phase["end_bytes"]))
    ]
    progress = _progress(found)
    for operators, live in curve:
        while at + 1 < len(spans) and operators > spans[at][1]:
            at += 1
        yield progress(operators), live, phase_label(spans[at][2])


def blocks(found: Mapping[str, Any]) -> list[Block]:
    """The phases from left to right; of too many, the longest."""
    progress = _progress(found)
    spans = sorted(_spans(found), key=lambda span: span[0] - span[1])[:_MOST_BLOCKS]
    return [
        Block(
            progress(start),
            progress(end),
            phase["kind"],
            str(phase["name"]).removeprefix("head "),
            f"{phase_label(phase)}, at the most {mib(phase['peak_bytes'])}",
        )
        for start, end, phase in sorted(spans, key=lambda span: span[0])
    ]


def _spans(found: Mapping[str, Any]) -> Iterator[tuple[float, float, Mapping[str, Any]]]:
    """Where phases begin and end: in operators, or one a phase where nobody counted."""
    for index, phase in enumerate(found["timeline"]):
        counted = phase.get("end_operator")
        yield (phase["start_operator"], counted, phase) if counted else (index, index + 1, phase)


def _progress(found: Mapping[str, Any]) -> Callable[[float], float]:
    """From operators to per cent of the step; what follows the last backward is shortened."""
    spans = list(_spans(found))
    end = spans[-1][1]
    last = max((stop for _, stop, phase in spans if phase["kind"] == "backward"), default=end) or 1
    tail = min(end - last, _SHORTENED * last)

    def percent(operators: float) -> float:
        beyond = max(0.0, operators - last) * tail / (end - last) if end > last else 0.0
        return 100 * (min(operators, last) + beyond) / (last + tail)

    return percent
