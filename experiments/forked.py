"""A fresh process that finds its modules imported: studies with hundreds of trials start in milliseconds."""

from __future__ import annotations

import multiprocessing
from typing import Any

import torch._dynamo  # noqa: F401  # every optimizer loads it

from mtl_accum.measure import FreshProcess

__all__ = ["context", "forked"]


def context() -> Any:
    """Of processes that are forked from one that has imported modules and done nothing else.

    They begin without tensors, without an allocator's pool, without threads and without a CUDA context.
    """
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(
        [__name__, "experiments.study", "experiments.batch.trial", "mtl_accum.measure._worker"]
    )
    return forking


def forked(subject: Any) -> FreshProcess:
    """A fresh process from that context.

    Args:
        subject: any object that pickles.
    """
    return FreshProcess(subject, context())
