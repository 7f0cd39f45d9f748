"""What every job of an experiment has: its parts, where it writes, and what its report says of how it came to be."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mtl_accum
from mtl_accum._optimizers import Optimizers, steppable
from mtl_accum.editions import samples_of
from mtl_accum.jobs._run import Run
from mtl_accum.report import timestamp

__all__ = ["MakeOptimizer", "Run", "header", "make_optimizer", "samples_in", "snapshot_folder"]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizers]


def header(run: Run, seed: int) -> dict[str, Any]:
    """Date, command, seed, versions, commit and configuration."""
    return {
        "created": timestamp(),
        "command": run.command,
        "seed": seed,
        "versions": _versions(),
        "git_commit": _git_commit(),
        "config": run.config,
    }


def make_optimizer(optimizer: MakeOptimizer, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a model's parameters, one of several where `optimizer` returns a list.

    Raises:
        ValueError: The optimizer refuses its settings, or is none that a training can step with.
    """
    if not callable(optimizer):
        raise ValueError(f"optimizer must make an optimizer of parameters, found {optimizer!r:.200}; see _partial_")
    try:
        made = optimizer(model.parameters())
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {error}") from error
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError) as error:
        raise ValueError(f"optimizer: {type(error).__name__}: {error}") from error
    try:
        one = steppable(made)
    except TypeError:
        one = None
    if one is None:
        raise ValueError(f"optimizer must make an optimizer of torch or a list of them, found {made!r:.200}")
    return one


def snapshot_folder(run: Run) -> Path:
    """The folder for snapshots, made."""
    folder = run.folder / "snapshots"
    folder.mkdir(exist_ok=True)
    return folder


def samples_in(batch: Any) -> int | None:
    """How many samples a batch has, for the report; None where its tensors do not agree on that."""
    try:
        return samples_of(batch, "batch")
    except (TypeError, ValueError):
        return None


def _versions() -> dict[str, str]:
    versions = {
        "mtl_accum": mtl_accum.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    return {**versions, "platform": sys.platform}


def _git_commit() -> str | None:
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
