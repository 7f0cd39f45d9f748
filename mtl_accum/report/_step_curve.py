"""Curve of live bytes through one step, and the ribbon of its phases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mtl_accum.report._breakdown import phase_label
from mtl_accum.report._table import mib

__all__ = ["PhaseBar", "phase_bars", "points"]

_MOST_BARS = 400  # phases of one edition that are drawn
_SHORTENED = 0.08  # most of the step's width for what follows its last backward: optimizers may run many operators


@dataclass(frozen=True)
class PhaseBar:
    """Phase in the ribbon below the curve.

    Attributes:
        start: Start of the phase in per cent of the step.
        end: End of the phase in per cent of the step.
        kind: "forward", "backward", "optimizer" or "zero_grad"; it decides the colour.
        name: Name of the part, such as "trunk" or "digit".
        hover: Name of the phase, and its peak.
    """

    start: float
    end: float
    kind: str
    name: str
    hover: str


def points(record: Mapping[str, Any]) -> Iterator[tuple[float, int, str]]:
    """Yield progress in per cent, live bytes and the phase, for every point of a record's curve."""
    phases, spans, at = record["timeline"], list(_spans(record)), 0
    curve = record.get("curve") or [
        point
        for index, phase in enumerate(phases)
        for point in ((index + 0.5, phase["peak_bytes"]), (index + 1, phase["end_bytes"]))
    ]
    progress = _progress(record)
    for operators, live in curve:
        while at + 1 < len(spans) and operators > spans[at][1]:
            at += 1
        yield progress(operators), live, phase_label(spans[at][2])


def phase_bars(record: Mapping[str, Any]) -> list[PhaseBar]:
    """Return the phases from left to right; of too many, the longest ones."""
    progress = _progress(record)
    spans = sorted(_spans(record), key=lambda span: span[0] - span[1])[:_MOST_BARS]
    return [
        PhaseBar(
            progress(start),
            progress(end),
            phase["kind"],
            str(phase["name"]).removeprefix("head "),
            f"{phase_label(phase)}, at most {mib(phase['peak_bytes'])}",
        )
        for start, end, phase in sorted(spans, key=lambda span: span[0])
    ]


def _spans(record: Mapping[str, Any]) -> Iterator[tuple[float, float, Mapping[str, Any]]]:
    """Yield start, end and phase: in operators, or as one unit per phase if the record has no count of operators."""
    for index, phase in enumerate(record["timeline"]):
        counted = phase.get("end_operator")
        yield (phase["start_operator"], counted, phase) if counted else (index, index + 1, phase)


def _progress(record: Mapping[str, Any]) -> Callable[[float], float]:
    """Return a function from operators to per cent of the step, which shortens what follows the last backward."""
    spans = list(_spans(record))
    end = spans[-1][1]
    last = max((stop for _, stop, phase in spans if phase["kind"] == "backward"), default=end) or 1
    tail = min(end - last, _SHORTENED * last)

    def percent(operators: float) -> float:
        beyond = max(0.0, operators - last) * tail / (end - last) if end > last else 0.0
        return 100 * (min(operators, last) + beyond) / (last + tail)

    return percent
