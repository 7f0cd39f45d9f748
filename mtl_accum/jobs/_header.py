"""Header of a job's report: date, command, seed, versions, commit and configuration."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import torch

import mtl_accum
from mtl_accum.jobs._run import Run
from mtl_accum.report import timestamp

__all__ = ["header"]


def header(run: Run, seed: int) -> dict[str, Any]:
    """Return what a report states about the start of its job.

    Args:
        run: Command and configuration.
        seed: Seed of the experiment.
    """
    return {
        "created": timestamp(),
        "command": run.command,
        "seed": seed,
        "versions": _versions(),
        "git_commit": _git_commit(),
        "config": run.config,
    }


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
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return git.stdout.strip()
