"""Which checkpoint a run goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl_accum.training.checkpoint._changes import changes
from mtl_accum.training.checkpoint._retention import FOLDER, all_of, newest, of_path
from mtl_accum.training.checkpoint._store import Checkpoint, CheckpointError, read_values

__all__ = ["find"]

_LOG = logging.getLogger(__name__)


def find(resume: str | None, folder: Path, config: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint to go on from; None begins anew.

    Args:
        resume: a run's folder, one of its checkpoints, or "auto": this run's own folder, else the newest run beside it
            whose configuration fits; None begins anew.
        folder: of this run.
        config: of this run.

    Raises:
        CheckpointError: there is none there, or none that can be read.
        ValueError: it is of a run with another configuration; names the keys that differ.
    """
    if resume is None:
        return None
    if resume == "auto":
        return _find_by_itself(folder, config)
    found = of_path(Path(resume))
    if found is None:
        raise CheckpointError(f"resume={resume}: expected a run's folder with {FOLDER}/step-..., found none there")
    return _same(found, config)


def _find_by_itself(folder: Path, config: Mapping[str, Any]) -> Checkpoint | None:
    own = newest(folder / FOLDER)
    if own is not None:
        return _same(own, config)
    beside = folder.parent.parent  # outputs, of outputs/date/time
    runs = {path.parent.parent for path in beside.glob(f"*/*/{FOLDER}/step-*")}
    for run in sorted(runs, key=_written, reverse=True):
        if not _may_fit(run, config):
            continue
        try:
            found = newest(run / FOLDER)
        except CheckpointError as error:
            _LOG.warning("%s", error)
            continue
        if found is not None and not changes(found.values.get("config", {}), config):
            return found
    _LOG.info("resume=auto: no checkpoint of this configuration; beginning anew")
    return None


def _written(run: Path) -> float:
    """When its newest checkpoint was; another process may be removing it just now."""
    try:
        return all_of(run / FOLDER)[-1].stat().st_mtime
    except (IndexError, OSError):
        return 0.0


def _may_fit(run: Path, config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint of this configuration may be there: reading the values takes less than all tensors."""
    for path in reversed(all_of(run / FOLDER)):
        try:
            return not changes(read_values(path).get("config", {}), config)
        except CheckpointError:
            continue
    return True


def _same(found: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    differing = changes(found.values.get("config", {}), config)
    if differing:
        raise ValueError(f"{found.path}: the configuration has changed since: {'; '.join(differing)}")
    return found
