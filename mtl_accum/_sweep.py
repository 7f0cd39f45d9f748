"""Hydra callback that writes a sweep's report as its jobs end; the report's code is imported only then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.experimental.callback import Callback

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

__all__ = ["SweepReport"]


class SweepReport(Callback):
    """Write `sweep.html`, `sweep.md`, `sweep.csv` and `sweep.json` into the folder of a sweep, after every job.

    An interrupted sweep so has the report of the jobs before.

    Attributes:
        failed: Message of `main` at the end of a sweep with failed jobs; empty without.
        folder: Folder of the sweep's report, once a job has ended.
    """

    failed: ClassVar[str] = ""
    folder: ClassVar[Path | None] = None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Update the report of the sweep, if the job is one of a sweep."""
        if config.hydra.mode is not None and config.hydra.mode.name == "MULTIRUN":
            from mtl_accum import report

            SweepReport.folder = Path(config.hydra.sweep.dir)
            report.write_sweep(SweepReport.folder)

    @classmethod
    def describe_rest(cls) -> str:
        """Describe the report of an interrupted sweep, from its files: the signal may have come between two of them."""
        written = None if cls.folder is None else cls.folder / "sweep.json"
        rows = json.loads(written.read_text(encoding="utf-8"))["rows"] if written and written.exists() else []
        return f"{cls.folder}/sweep.html has {len(rows)} jobs" if rows else "no report was written"

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write the report of all jobs, and set `failed`."""
        from mtl_accum import report

        folder = Path(config.hydra.sweep.dir)
        rows = report.write_sweep(folder)["rows"]
        failed = [row for row in rows if row["failure"]]
        if rows:
            report.show_path("Sweep", folder / "sweep.html")
        if failed:
            SweepReport.failed = f"{len(failed)} of {len(rows)} jobs failed; {folder / 'sweep.md'} says why"
