"""Running the command line in a process of its own, small enough for a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SMALL = [
    "model.trunk.width=8",
    "model.trunk.depth=2",
    "model.tasks.digit.head.depth=1",
    "model.tasks.denoise.head.depth=1",
    "data.batch_size=500",
    "epochs=1",
    "compare.steps=1",
]


def mtl_accum(
    *arguments: str, cwd: Path, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m mtl_accum ...`, warnings being errors."""
    return subprocess.run(
        [python, "-W", "error", "-m", "mtl_accum", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
