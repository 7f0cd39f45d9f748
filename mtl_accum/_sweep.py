"""The edge of Hydra's multirun: the sweep's report, written as its jobs end; `--help` never loads what writes it."""

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
    """Writes `sweep.html`, `sweep.md`, `sweep.csv` and `sweep.json` into the folder of a sweep.

    After every job: an interrupted sweep has what was done until then.

    Attributes:
        failed: what `main` says at the end, if a job of the sweep has failed.
        folder: where the report of the sweep is, once a job of it is over.
    """

    failed: ClassVar[str] = ""
    folder: ClassVar[Path | None] = None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """A job of a sweep, or a run of its own, is over."""
        if config.hydra.mode is not None and config.hydra.mode.name == "MULTIRUN":
            from mtl_accum import report

            SweepReport.folder = Path(config.hydra.sweep.dir)
            report.write_sweep(SweepReport.folder)

    @classmethod
    def describe_rest(cls) -> str:
        """Return in words what an interrupted sweep has, as its files have it: the signal may come between two."""
        written = None if cls.folder is None else cls.folder / "sweep.json"
        rows = json.loads(written.read_text(encoding="utf-8"))["rows"] if written and written.exists() else []
        return f"{cls.folder}/sweep.html has {len(rows)} jobs" if rows else "no report was written"

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
