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
        self._name, self._kind = "", ""
        self._phases: list[PhaseMemory] = []
        self._peak = 0
        self._peak_phase: str | None = None

    def see(self, live: int, *, highest: bool) -> None:
        """So many bytes are live; whether that is more than ever before in this step."""
        self._peak = max(self._peak, live)
        if highest:
            self._peak_phase = self.now

    def begin(self, name: str, kind: Kind) -> None:
        """A phase begins."""
        self._name, self._kind = name, kind
        self.now = label(name, kind)
        if self._peak_phase == "":
            self._peak_phase = self.now

    def end(self, live: int) -> None:
        """It is over, with so many bytes left."""
        self._phases.append(PhaseMemory(self._name, self._kind, max(self._peak, live), live))
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
