"""One finished run of the command line for all tests that read one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cli.command import SMALL, mtl_accum

ARGUMENTS = ("+experiment=two_task", *SMALL, "edition=split", "model.tasks.digit.weight=0.5", "hydra.run.dir=out")


@dataclass(frozen=True)
class Finished:
    """A run that has ended well; a test that writes into its folder copies it.

    Attributes:
        folder: Folder in which the command ran; `out` in it is the folder of the run.
        output: Standard output and standard error.
        arguments: Arguments of the command line.
    """

    folder: Path
    output: tuple[str, str]
    arguments: tuple[str, ...] = ARGUMENTS


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return the run, which the first process that needs it makes, for the other processes of pytest-xdist too."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "finished"
    output = folder / "output.json"
    with FileLock(f"{folder}.lock"):
        if not output.exists():
            folder.mkdir(exist_ok=True)
            done = mtl_accum(*ARGUMENTS, cwd=folder)
            assert done.returncode == 0, done.stderr
            output.write_text(json.dumps([done.stdout, done.stderr]))
    stdout, stderr = json.loads(output.read_text())
    return Finished(folder, (stdout, stderr))
