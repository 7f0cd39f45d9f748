"""One trial: a few steps of a network with a batch of one size, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from experiments.forked import context
from experiments.tasks.networks import dense, parts
from mtl_accum import Accumulated, Cached, PerTask, Split, SummedLoss
from mtl_accum.measure import MeasurementWorker
from mtl_accum.memory import is_out_of_memory
from mtl_accum.testing import transformer

__all__ = ["NETWORKS", "PIECES", "Trial", "Weight", "edition_of", "weigh"]

HEADS, PIECES = 16, 4
EDITIONS = ("summed", "per_task", "split", "cached", "accumulated")


def _dense(tasks: int, samples: int, width: int = 8, size: int = 32) -> tuple[Any, Any]:
    return dense(tasks, samples, width, size)


def _transformer(_: int, samples: int, width: int = 64, length: int = 64) -> tuple[Any, Any]:
    return transformer(width=width, length=length, samples=samples)


NETWORKS: Mapping[str, Callable[..., tuple[Any, Any]]] = {"dense heads": _dense, "transformer": _transformer}


def edition_of(name: str, batch: int) -> Any:
    """Return an edition by name, with at most four pieces of a batch."""
    pieces = min(PIECES, batch)
    return {
        "summed": SummedLoss(),
        "per_task": PerTask(),
        "split": Split(),
        "cached": Cached(-(-batch // pieces)),
        "accumulated": Accumulated(SummedLoss(), pieces),
    }[name]


@dataclass(frozen=True)
class Trial:
    """A network, an edition and a batch size to try.

    Attributes:
        network: Key of `NETWORKS`.
        edition: Name that `edition_of` takes.
        batch: Number of samples.
        sizes: Arguments of the network's function.
        device: Device to run on.
        limit: Bytes available to CUDA's allocator; None sets no limit.
    """

    network: str
    edition: str
    batch: int
    sizes: tuple[tuple[str, int], ...]
    device: torch.device
    limit: int | None = None

    def bench(self) -> MeasurementWorker:
        """Make the worker that times or weighs the trial."""
        make = partial(NETWORKS[self.network], **dict(self.sizes))
        return MeasurementWorker(
            partial(parts, make, HEADS, self.batch, self.device), edition_of(self.edition, self.batch)
        )


@dataclass(frozen=True)
class Weight:
    """Peak memory of a trial, in bytes.

    Attributes:
        tensors: Live tensors, or the bytes allocated by CUDA's allocator.
        process: Resident memory of the process, or its memory by NVML.
        reserved: Pool of CUDA's allocator.
    """

    tensors: int
    process: int | None = None
    reserved: int | None = None


def weigh(trial: Trial) -> Weight | None:
    """Run a trial in a fresh process; return None if memory ran out, or if the process was killed for it."""
    with ProcessPoolExecutor(1, mp_context=context()) as pool:
        try:
            return pool.submit(_weigh, trial, torch.get_num_threads()).result()
        except BrokenProcessPool:  # killed for lack of memory
            return None


def _weigh(trial: Trial, threads: int) -> Weight | None:
    torch.set_num_threads(threads)
    bench = trial.bench()
    bench.tune_for_memory()
    if trial.limit is not None:
        total = torch.cuda.get_device_properties(trial.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, trial.limit / total), trial.device)
    try:
        bench.prepare()
        readings = {record.source: record for record in bench.memory()}
    except Exception as error:
        if is_out_of_memory(error):
            return None
        raise
    if "cuda" in readings:
        cuda = readings["cuda"]
        return Weight(cuda.peak_bytes or 0, cuda.process_bytes, cuda.reserved_bytes)
    process = readings["process"].peak_bytes if "process" in readings else None
    return Weight(readings["tensors"].peak_bytes or 0, process)
