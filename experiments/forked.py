"""A fresh process that finds its modules imported: studies with hundreds of trials start in milliseconds."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # every optimizer loads it

from mtl_accum.memory._fresh import FreshProcess, _serve, _Settings

__all__ = ["Forked", "context"]


def context() -> Any:
    """Of processes that are forked from one that has imported modules and done nothing else.

    They begin without tensors, without an allocator's pool, without threads and without a CUDA context.
    """
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload([__name__, "experiments.study", "experiments.batch.trial", "mtl_accum._bench"])
    return forking


class Forked(FreshProcess):
    """As `FreshProcess`, from that context.

    Args:
        subject: any object that pickles.
    """

    def __init__(self, subject: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mtl_accum-")
        path = Path(self._folder.name) / "subject.pt"
        torch.save(subject, path)
        forking = context()
        self._connection, theirs = forking.Pipe()
        self._process = forking.Process(target=_serve, args=(theirs, path, _Settings()), daemon=True)
        self._process.start()
        theirs.close()
