"""Figures of one row of the comparison with peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from experiments.peers.rows import Row
from mtl_accum.memory import PeakMemory

__all__ = ["EXACT", "Outcome", "reference_in"]

EXACT = 1e-10  # in float64: as good as the same


@dataclass
class Outcome:
    """Figures of one row; empty or None where it was not measured, with the reason in `failure`.

    Attributes:
        row: Row that was measured.
        seconds: Seconds of every timed step.
        memory: Readings by meter.
        differences: Differences of the weights after three steps in float64, without dropout and with.
        failure: Reason for missing figures, in one line.
    """

    row: Row
    seconds: list[float] = field(default_factory=list)
    memory: dict[str, PeakMemory] = field(default_factory=dict)
    differences: tuple[float, float] | None = None
    failure: str | None = None

    def peak(self, source: str = "tensors") -> int | None:
        """Return the peak in bytes, by one meter."""
        return self.memory[source].peak_bytes if source in self.memory else None

    def rise(self, source: str) -> int | None:
        """Return the bytes above those held before the step."""
        record = self.memory.get(source)
        if record is None or record.peak_bytes is None or record.base_bytes is None:
            return None
        return record.peak_bytes - record.base_bytes

    def times(self, reference: Outcome) -> list[float]:
        """Return each step's time relative to the reference's step of the same round."""
        return [own / other for own, other in zip(self.seconds, reference.seconds, strict=False)]

    def time(self, reference: Outcome) -> float | None:
        """Return the median of `times`."""
        ratios = self.times(reference)
        return median(ratios) if ratios else None

    def exact(self) -> bool:
        """Return whether the gradient is the summed loss's."""
        return self.differences is not None and self.differences[0] <= EXACT

    def same_masks(self) -> bool:
        """Return whether the gradient is the summed loss's with dropout too."""
        return self.differences is not None and self.differences[1] <= EXACT

    def as_json(self) -> dict[str, Any]:
        """Return every figure: bytes and seconds."""
        row = self.row
        return {
            "name": row.name,
            "situation": row.situation,
            "kind": row.kind,
            "package": row.distribution or None,
            "version": row.version(),
            "lines": row.lines(),
            "seconds": self.seconds,
            "failure": self.failure,
            "remark": row.remark,
            "memory": {
                source: {"peak_bytes": record.peak_bytes, "base_bytes": record.base_bytes}
                for source, record in self.memory.items()
            },
            "reserved_bytes": self.memory["cuda"].reserved_bytes if "cuda" in self.memory else None,
            "difference": None if self.differences is None else self.differences[0],
            "difference_with_dropout": None if self.differences is None else self.differences[1],
        }


def reference_in(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the reference of a situation: its first row."""
    return outcomes[0]
