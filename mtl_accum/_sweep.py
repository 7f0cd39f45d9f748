"""The edge of Hydra's multirun: the sweep's report, written as its jobs end; `--help` never loads what writes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.experimental.callback import Callback

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

__all__ = ["SweepReport"]


class SweepReport(Callback):
    """Writes `sweep.html`, `sweep.md`, `sweep.csv` and `sweep.json` into the folder of a sweep.

    After every job: an interrupted sweep has what was done until then.

    Attributes:
        failed: what `main` says at the end, if a job of the sweep has failed.
        so_far: what it says where the sweep is interrupted.
    """

    failed: ClassVar[str] = ""
    so_far: ClassVar[str] = ""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """A job of a sweep, or a run of its own, is over."""
        if config.hydra.mode is not None and config.hydra.mode.name == "MULTIRUN":
            from mtl_accum import report

            folder = Path(config.hydra.sweep.dir)
            rows = report.write_sweep(folder)["rows"]
            SweepReport.so_far = f"{folder / 'sweep.html'} has {len(rows)} jobs" if rows else ""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """All jobs are over."""
        from mtl_accum import report

        folder = Path(config.hydra.sweep.dir)
        rows = report.write_sweep(folder)["rows"]
        failed = [row for row in rows if row["failure"]]
        if rows:
            report.show_path("Sweep", folder / "sweep.html")
        if failed:
            SweepReport.failed = f"{len(failed)} of {len(rows)} jobs failed; {folder / 'sweep.md'} says why"
