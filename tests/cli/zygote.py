"""A process that has imported all packages, and forks for every command line; see `tests.cli.command`.

Reads requests as lines of JSON and answers each with the exit code.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
import warnings
from importlib import import_module
from typing import NoReturn

IMPORTS = (
    *("torch._dynamo", "torch.utils.tensorboard", "torchmetrics.classification", "torchmetrics.image"),
    *("matplotlib.pyplot", "sklearn.datasets", "sklearn.model_selection", "hydra"),
    *("mtl_accum.data", "mtl_accum.models", "mtl_accum.jobs._train"),
)
_MEMORY = 12 << 30  # address space: a network of a billion channels is to fail at once


def main() -> None:
    """Serve until the end of the input."""
    for name in IMPORTS:
        import_module(name)
    for request in sys.stdin:
        child = os.fork()
        if child == 0:
            run(**json.loads(request))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(arguments: list[str], cwd: str, out: str, err: str, building_only: bool, old_names: bool) -> NoReturn:
    """`python -m mtl_accum ...` in that folder, with its output in files.

    Args:
        arguments: of the command line.
        cwd: the folder.
        out: the file for standard output.
        err: the file for standard error.
        building_only: end with 0 where editions would be measured, and have little memory.
        old_names: let a name that has moved warn, in place of raising.
    """
    for path, number in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.chdir(cwd)
    sys.path[0] = cwd  # as `python -m` does
    sys.argv = ["mtl_accum", *arguments]
    if building_only:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        import_module("mtl_accum.jobs._comparison").compare = stop
    if old_names:
        warnings.filterwarnings("default", "mtl_accum.* is now mtl_accum", FutureWarning)
    runpy.run_module("mtl_accum", run_name="__main__", alter_sys=True)
    sys.exit()


def stop(*_: object, **__: object) -> NoReturn:
    """End in place of measuring."""
    sys.exit()


if __name__ == "__main__":
    main()
