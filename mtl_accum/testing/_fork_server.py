"""Fork server for measured processes, which start in milliseconds because their modules are imported.

A spawned process imports torch again, which takes seconds. A fork server imports modules once and does nothing else,
so a process that it forks begins without tensors, an allocator's pool, threads and a CUDA context.
"""

from __future__ import annotations

import multiprocessing
import os
from contextlib import chdir
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext, ForkServerContext
from pathlib import Path
from typing import Any

__all__ = ["ForkServer", "inherited_fork_server"]

_PRELOAD = ("torch._dynamo", "mtl_accum.measure")  # every optimizer imports torch._dynamo
_started: set[int] = set()  # processes that have started a fork server: this one, or none


class ForkServer(ForkServerContext):
    """Multiprocessing context whose processes are forked from one that has imported modules.

    Pass it to `FreshProcess` or to `start_processes_with`. The server starts with the first process. There is one
    server in a process: the context that is used first decides what it imports.

    Args:
        modules: Names of modules to import, beside those that measured processes need.
        folder: Folder in which the server starts, so modules that are not installed can be imported from there.
    """

    def __init__(self, *modules: str, folder: Path | None = None) -> None:
        super().__init__()
        self._modules = [*_PRELOAD, *modules, "mtl_accum.testing._freeze"]
        self._folder = folder or Path.cwd()

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # noqa: N802
        """Return a process that is not started yet; see `multiprocessing.Process`."""
        if os.getpid() not in _started:
            self.set_forkserver_preload(self._modules)
            with chdir(self._folder):
                forkserver.ensure_running()
            _started.add(os.getpid())
        return ForkServerContext.Process(*args, **kwargs)


def inherited_fork_server() -> BaseContext:
    """Return the context of the fork server that has forked this process.

    Without this call a forked process starts a fork server of its own, which imports everything again.
    """
    server = forkserver._forkserver
    server.ensure_running = resource_tracker.ensure_running  # type: ignore[method-assign]
    return multiprocessing.get_context("forkserver")
