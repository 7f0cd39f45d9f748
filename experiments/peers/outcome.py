"""What was found out about one row."""

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
    """Figures of one row; empty or None where it could not be measured, and `failure` says why.

    Attributes:
        row: that was measured.
        seconds: of every timed step.
        memory: by meter.
        differences: of the weights after three steps in float64, without dropout and with.
        failure: in one line.
    """

    row: Row
    seconds: list[float] = field(default_factory=list)
    memory: dict[str, PeakMemory] = field(default_factory=dict)
    differences: tuple[float, float] | None = None
    failure: str | None = None

    def peak(self, source: str = "tensors") -> int | None:
        """Bytes, by one meter."""
        return self.memory[source].peak_bytes if source in self.memory else None

    def rise(self, source: str) -> int | None:
        """Bytes above what rested before the step."""
        record = self.memory.get(source)
        if record is None or record.peak_bytes is None or record.base_bytes is None:
            return None
        return record.peak_bytes - record.base_bytes

    def times(self, reference: Outcome) -> list[float]:
        """Each step's time to that of the reference: to its step of the same round."""
        return [own / other for own, other in zip(self.seconds, reference.seconds, strict=False)]

    def time(self, reference: Outcome) -> float | None:
        """The median of these."""
        ratios = self.times(reference)
        return median(ratios) if ratios else None

    def exact(self) -> bool:
        """Whether the gradient is the sum's."""
        return self.differences is not None and self.differences[0] <= EXACT

    def same_masks(self) -> bool:
        """Whether it is with dropout too."""
        return self.differences is not None and self.differences[1] <= EXACT

    def as_json(self) -> dict[str, Any]:
        """Every figure: bytes and seconds."""
        row = self.row
        return {
            **{"name": row.name, "situation": row.situation, "kind": row.kind},
            **{"package": row.distribution or None, "version": row.version(), "lines": row.lines()},
            **{"seconds": self.seconds, "failure": self.failure, "remark": row.remark},
            "memory": {
                source: {"peak_bytes": record.peak_bytes, "base_bytes": record.base_bytes}
                for source, record in self.memory.items()
            },
            "reserved_bytes": self.memory["cuda"].reserved_bytes if "cuda" in self.memory else None,
            "difference": None if self.differences is None else self.differences[0],
            "difference_with_dropout": None if self.differences is None else self.differences[1],
        }


def reference_in(outcomes: Sequence[Outcome]) -> Outcome:
    """The row that a situation's others are held against: its first one."""
    return outcomes[0]
