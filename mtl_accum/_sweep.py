"""The edge of Hydra's multirun: the sweep's report, written as its jobs end."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.experimental.callback import Callback

from mtl_accum import report

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

__all__ = ["SweepReport", "write_failure"]

_LOG = logging.getLogger(__name__)


class SweepReport(Callback):
    """Writes `sweep.html`, `sweep.md`, `sweep.csv` and `sweep.json` into the folder of a sweep.

    After every job: an interrupted sweep has what was done until then.

    Attributes:
        failed: what `main` says at the end, if a job of the sweep has failed.
    """

    failed: ClassVar[str] = ""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """A job of a sweep, or a run of its own, is over."""
        if config.hydra.mode is not None and config.hydra.mode.name == "MULTIRUN":
            report.write_sweep(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """All jobs are over."""
        folder = Path(config.hydra.sweep.dir)
        rows = report.write_sweep(folder)["rows"]
        failed = [row for row in rows if row["failure"]]
        if rows:
            print(f"Sweep: {folder / 'sweep.html'}")
        if failed:
            SweepReport.failed = f"{len(failed)} of {len(rows)} jobs failed; {folder / 'sweep.md'} says why"


def write_failure(folder: Path, command: str, config: Any, reason: str) -> None:
    """Leave the reason of a failure in a job's folder, for the sweep's report."""
    content = {"version": report.VERSION, "kind": "failure", "command": command, "reason": reason, "config": config}
    text = json.dumps(content, indent=1)
    report.write_whole(folder, {report.FAILURE: lambda path: path.write_text(text, encoding="utf-8")})
