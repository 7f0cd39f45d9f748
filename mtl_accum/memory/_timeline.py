"""The phases of a step with the highest point of each, whoever measures it."""

from __future__ import annotations

from mtl_accum.editions._phase import Kind, label
from mtl_accum.memory._record import PhaseMemory

__all__ = ["Timeline"]


class Timeline:
    """Collects phases. What happens between two of them counts with the later one, at the end with the last.

    Attributes:
        now: the phase that runs; empty between phases.
    """

    def __init__(self) -> None:
        self.now = ""
        self._name, self._kind, self._start = "", "", 0
        self._phases: list[PhaseMemory] = []
        self._peak, self._before = 0, 0  # since the latest start or end; between the end before and that start
        self._peak_phase: str | None = None

    def see(self, live: int, *, highest: bool) -> None:
        """So many bytes are live; whether that is more than ever before in this step."""
        self._peak = max(self._peak, live)
        if highest:
            self._peak_phase = self.now

    def begin(self, name: str, kind: Kind, live: int) -> None:
        """A phase begins, with so many bytes."""
        self._name, self._kind, self._start = name, kind, live
        self._before, self._peak = self._peak, live
        self.now = label(name, kind)
        if self._peak_phase == "":
            self._peak_phase = self.now

    def end(self, live: int) -> None:
        """It is over, with so many bytes left."""
        rise, peak = max(self._peak, live) - self._start, max(self._before, self._peak, live)
        self._phases.append(PhaseMemory(self._name, self._kind, peak, live, self._start, rise))
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
