"""The checkpoint that a run resumes from: a given one, or the newest one of the same configuration."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl_accum.training.checkpoint._changes import changes
from mtl_accum.training.checkpoint._folder import FOLDER, checkpoint_at, list_checkpoints, newest_checkpoint
from mtl_accum.training.checkpoint._store import Checkpoint, CheckpointError, read_values

__all__ = ["find_checkpoint"]

_LOG = logging.getLogger(__name__)


def find_checkpoint(resume: str | None, folder: Path, config: Mapping[str, Any]) -> Checkpoint | None:
    """Read the checkpoint that a run resumes from.

    Args:
        resume: Folder of a run or of one of its checkpoints; "auto" for this run's own folder, or else the newest run
            beside it with the same configuration; None to start from the beginning.
        folder: Folder of this run.
        config: Configuration of this run.

    Returns:
        The checkpoint; None to start from the beginning.

    Raises:
        CheckpointError: There is no checkpoint, or none that can be read.
        ValueError: The checkpoint is of another configuration; names the keys that differ.
    """
    if resume is None:
        return None
    if resume == "auto":
        return _find_automatically(folder, config)
    checkpoint = checkpoint_at(Path(resume))
    if checkpoint is None:
        raise CheckpointError(f"resume={resume}: expected a run's folder with {FOLDER}/step-..., found none there")
    return _require_same_config(checkpoint, config)


def _find_automatically(folder: Path, config: Mapping[str, Any]) -> Checkpoint | None:
    own = newest_checkpoint(folder / FOLDER)
    if own is not None:
        return _require_same_config(own, config)
    outputs = folder.parent.parent  # a run's folder is outputs/date/time
    runs = {path.parent.parent for path in outputs.glob(f"*/*/{FOLDER}/step-*")}
    for run in sorted(runs, key=_time_of_newest, reverse=True):
        if not _may_match(run, config):
            continue
        try:
            checkpoint = newest_checkpoint(run / FOLDER)
        except CheckpointError as error:
            _LOG.warning("%s", error)
            continue
        if checkpoint is not None and not _changes_since(checkpoint.values, config):
            return checkpoint
    _LOG.info("resume=auto: no checkpoint of this configuration; starting from the beginning")
    return None


def _time_of_newest(run: Path) -> float:
    """Return when a run's newest checkpoint was written; 0 if it is gone, as another process may be deleting it."""
    try:
        return list_checkpoints(run / FOLDER)[-1].stat().st_mtime
    except (IndexError, OSError):
        return 0.0


def _may_match(run: Path, config: Mapping[str, Any]) -> bool:
    """Return whether a run may have a checkpoint of a configuration; reads no tensors, which takes longer."""
    for path in reversed(list_checkpoints(run / FOLDER)):
        try:
            return not _changes_since(read_values(path), config)
        except CheckpointError:
            continue
    return True


def _require_same_config(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    differing = _changes_since(checkpoint.values, config)
    if differing:
        raise ValueError(f"{checkpoint.path}: the configuration has changed since: {'; '.join(differing)}")
    return checkpoint


def _changes_since(values: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    return changes(values.get("config", {}), config)
