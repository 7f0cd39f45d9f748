"""A comparison of editions, side by side on the first training batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mtl_accum._knob_rules import check_knob
from mtl_accum.editions import EditionLike
from mtl_accum.jobs._experiment import Prepared, samples_in
from mtl_accum.jobs._require import require_editions
from mtl_accum.measure import compare
from mtl_accum.training.loop import describe_device, lock_device

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    Args:
        editions: Editions by name; the first one is the reference.
        steps: Number of timed steps of each edition.
        snapshots: Whether to write one file per edition for PyTorch's memory viewer.

    Raises:
        ValueError: An argument is out of range.
    """

    editions: Mapping[str, EditionLike]
    steps: int
    snapshots: bool

    def __post_init__(self) -> None:
        require_editions("compare.editions", self.editions)
        check_knob("compare.steps", self.steps)
        check_knob("compare.snapshots", self.snapshots)

    def with_edition(self, name: str, edition: EditionLike) -> Comparison:
        """Return the comparison with one more edition, or with another one of that name."""
        return replace(self, editions={**self.editions, name: edition})

    def snapshot_folder(self, folder: Path) -> Path | None:
        """Make the folder `snapshots` in the folder of a run; None where no snapshots are written."""
        if not self.snapshots:
            return None
        snapshots = folder / "snapshots"
        snapshots.mkdir(exist_ok=True)
        return snapshots

    def measure(self, prepared: Prepared, folder: Path, on_progress: Callable[[str], None]) -> dict[str, Any]:
        """Measure every edition in fresh processes; return the device, the number of samples and the rows for a report.

        Args:
            prepared: Experiment to measure, with its present weights.
            folder: Folder of the run.
            on_progress: Function that is called with a few words about the next measurement.
        """
        model, batch = prepared.model, prepared.first_batch()
        with lock_device(prepared.device):
            rows = compare(
                *(model.trunk, model.tasks, batch),
                optimizer=prepared.optimizer,
                editions=self.editions,
                steps=self.steps,
                snapshots=self.snapshot_folder(folder),
                on_progress=on_progress,
            )
        return {
            "device": describe_device(prepared.device),
            "samples": samples_in(batch),
            "editions": [asdict(row) for row in rows],
        }
