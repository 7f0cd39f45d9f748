"""The phases of a step with the highest point of each, whoever measures it."""

from __future__ import annotations

from mtl_accum.editions._engine import Kind, label
from mtl_accum.memory._readings import PhaseMemory

__all__ = ["Curve", "Timeline"]

_STRETCHES = 250


class Timeline:
    """Collects phases. What happens between two of them counts with the later one, at the end with the last.

    Attributes:
        now: the phase that runs; empty between phases.
    """

    def __init__(self) -> None:
        self.now = ""
        self._name, self._kind, self._start, self._at = "", "", 0, 0
        self._phases: list[PhaseMemory] = []
        self._peak, self._before = 0, 0  # since the latest start or end; between the end before and that start
        self._peak_phase: str | None = None

    def see(self, live: int, *, highest: bool) -> None:
        """So many bytes are live; whether that is more than ever before in this step."""
        self._peak = max(self._peak, live)
        if highest:
            self._peak_phase = self.now

    def begin(self, name: str, kind: Kind, live: int, operators: int = 0) -> None:
        """A phase begins, with so many bytes, after so many operators."""
        self._name, self._kind, self._start, self._at = name, kind, live, operators
        self._before, self._peak = self._peak, live
        self.now = label(name, kind)
        if self._peak_phase == "":
            self._peak_phase = self.now

    def end(self, live: int, operators: int = 0) -> None:
        """It is over, with so many bytes left, after so many operators."""
        rise, peak = max(self._peak, live) - self._start, max(self._before, self._peak, live)
        self._phases.append(PhaseMemory(self._name, self._kind, peak, live, self._start, rise, self._at, operators))
        self._peak, self.now = live, ""

    def phases(self) -> tuple[PhaseMemory, ...]:
        """All that are over."""
        return tuple(self._phases)

    def peak_phase(self) -> str | None:
        """The phase of the highest point; None if no phase was announced."""
        if self._peak_phase or not self._phases:
            return self._peak_phase or None
        last = self._phases[-1]
        return label(last.name, last.kind)


class Curve:
    """Live bytes after every operator, kept where they change."""

    def __init__(self) -> None:
        self._points: list[tuple[int, int]] = []

    def see(self, operators: int, live: int) -> None:
        """So many bytes after so many operators."""
        if not self._points or self._points[-1][1] != live:
            self._points.append((operators, live))

    def thinned(self, operators: int) -> tuple[tuple[int, int], ...]:
        """The first, lowest, highest and last point of each of 250 stretches of equally many operators."""
        stretches: dict[int, list[tuple[int, int]]] = {}
        for point in self._points:
            stretches.setdefault(point[0] * _STRETCHES // max(operators, 1), []).append(point)
        found: list[tuple[int, int]] = []
        for points in stretches.values():
            kept = {points[0], min(points, key=_live), max(points, key=_live), points[-1]}
            found += sorted(kept)
        return tuple(found)


def _live(point: tuple[int, int]) -> int:
    return point[1]
