"""Timeline of a step: its phases with the peak of each, and the curve of live bytes."""

from __future__ import annotations

from mtl_accum.editions._engine import Kind, label
from mtl_accum.memory._readings import PhaseMemory

__all__ = ["Curve", "Timeline"]

_STRETCHES = 250  # intervals of operators in a thinned curve


class Timeline:
    """Phases of a step. Readings between two phases count for the later one, readings at the end for the last.

    Attributes:
        current: Label of the running phase; empty between phases.
    """

    def __init__(self) -> None:
        self.current = ""
        self._name, self._kind, self._start, self._start_operator = "", "", 0, 0
        self._phases: list[PhaseMemory] = []
        self._peak = 0  # since the latest start or end of a phase
        self._peak_before = 0  # between the end of the previous phase and the start of the current one
        self._peak_phase: str | None = None

    def record(self, live: int, *, highest: bool) -> None:
        """Record a reading.

        Args:
            live: Live bytes.
            highest: Whether this is the highest reading of the step so far.
        """
        self._peak = max(self._peak, live)
        if highest:
            self._peak_phase = self.current

    def begin(self, name: str, kind: Kind, live: int, operators: int = 0) -> None:
        """Record the start of a phase, with the live bytes and the number of operators so far."""
        self._name, self._kind = name, kind
        self._start, self._start_operator = live, operators
        self._peak_before, self._peak = self._peak, live
        self.current = label(name, kind)
        if self._peak_phase == "":
            self._peak_phase = self.current

    def end(self, live: int, operators: int = 0) -> None:
        """Record the end of the phase, with the live bytes and the number of operators so far."""
        rise = max(self._peak, live) - self._start
        peak = max(self._peak_before, self._peak, live)
        self._phases.append(
            PhaseMemory(self._name, self._kind, peak, live, self._start, rise, self._start_operator, operators)
        )
        self._peak, self.current = live, ""

    def phases(self) -> tuple[PhaseMemory, ...]:
        """Return the phases that have ended."""
        return tuple(self._phases)

    def peak_phase(self) -> str | None:
        """Return the phase of the highest reading; None if there were no phases."""
        if self._peak_phase or not self._phases:
            return self._peak_phase or None
        last = self._phases[-1]
        return label(last.name, last.kind)


class Curve:
    """Live bytes by the number of operators, stored only when they change."""

    def __init__(self) -> None:
        self._points: list[tuple[int, int]] = []

    def record(self, operators: int, live: int) -> None:
        """Record the live bytes after a number of operators."""
        if not self._points or self._points[-1][1] != live:
            self._points.append((operators, live))

    def thinned(self, operators: int) -> tuple[tuple[int, int], ...]:
        """Return the first, lowest, highest and last point of each of 250 stretches of equally many operators."""
        stretches: dict[int, list[tuple[int, int]]] = {}
        for point in self._points:
            stretches.setdefault(point[0] * _STRETCHES // max(operators, 1), []).append(point)
        thinned: list[tuple[int, int]] = []
        for points in stretches.values():
            kept = {points[0], min(points, key=_live), max(points, key=_live), points[-1]}
            thinned += sorted(kept)
        return tuple(thinned)


def _live(point: tuple[int, int]) -> int:
    return point[1]
