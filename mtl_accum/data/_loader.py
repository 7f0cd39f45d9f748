"""Batches of a data set that can begin anywhere and do not depend on who loads them."""

from __future__ import annotations

import atexit
import hashlib
import os
import random
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawValue
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from mtl_accum._state import same_random_numbers
from mtl_accum._validate import boolean, natural, positive_int, workers

__all__ = ["Loader", "SampleError", "WorkerError"]


class SampleError(ValueError):
    """A sample could not be loaded; the message names it, a note has the traceback of where."""


class WorkerError(ValueError):
    """A worker process died."""


class Loader:
    """Batches of a data set: shuffled anew in every epoch, the same ones with any number of workers.

    What a batch is depends on the seed, the epoch and its number only, random augmentation included: its samples are
    loaded with torch's, Python's and numpy's generators seeded from those three. So a run that goes on in the middle of
    an epoch skips without loading, and workers change the speed and nothing else.

    Args:
        dataset: has a length and samples by number.
        batch_size: samples of a batch.
        shuffle: whether every epoch has an order of its own.
        drop_last: leave out a last batch that is shorter.
        seed: of order and augmentation.
        num_workers: processes that load; 0 loads in this one.
        prefetch_factor: batches that each worker loads ahead; None is torch's default.
        pin_memory: into page-locked memory, for faster copies to a GPU; None does so where there is one.
        collate: makes a batch of samples.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool | None = None,
        collate: Callable[[list[Any]], Any] = default_collate,
    ) -> None:
        positive_int("batch_size", batch_size)
        boolean("shuffle", shuffle)
        boolean("drop_last", drop_last)
        natural("seed", seed)
        workers("num_workers", num_workers)
        if prefetch_factor is not None:
            positive_int("prefetch_factor", prefetch_factor)
        self.batch_size = batch_size
        self._samples, self._shuffle, self._drop_last, self._seed = len(cast(Sized, dataset)), shuffle, drop_last, seed
        self._epoch = 0
        self._reading = object()  # who reads now: workers serve one at a time
        self._order = _Order()
        self._loader: DataLoader[Any] = DataLoader(
            _Seeded(dataset, seed, collate),
            batch_sampler=self._order,  # type: ignore[arg-type]  # an order of whole batches
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
            collate_fn=_as_it_is,
            worker_init_fn=_Deaf() if num_workers else None,
            generator=torch.Generator(),  # what workers would be seeded from; the process's own stays untouched
        )

    def __len__(self) -> int:
        """Batches of an epoch."""
        whole, rest = divmod(self._samples, self.batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def __iter__(self) -> Iterator[Any]:
        """One epoch, the next one at every call."""
        epoch, self._epoch = self._epoch, self._epoch + 1
        return self.at(epoch, 0)

    def at(self, epoch: int, batch: int) -> Iterator[Any]:
        """The rest of an epoch; what comes before is not loaded.

        Raises:
            SampleError: a sample could not be loaded.
            WorkerError: a worker process died.
        """
        generator = torch.Generator().manual_seed(_mix(self._seed, epoch))
        order = torch.randperm(self._samples, generator=generator) if self._shuffle else torch.arange(self._samples)
        numbers: list[int] = order.tolist()
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        self._order.batches = [
            _Batch(epoch, number, numbers[start : start + self.batch_size]) for number, start in enumerate(starts)
        ][batch:]
        self._reading = reading = object()
        try:
            with _held_back():
                batches = iter(self._loader)  # starts the workers, the first time
            for loaded in batches:
                if self._reading is not reading:
                    raise RuntimeError("this iterator of a Loader is over: another one has begun; make a second Loader")
                if isinstance(loaded, _Failed):
                    raise loaded.error()
                yield loaded
        except RuntimeError as error:
            if not _WORKER_DIED.search(str(error)):
                raise
            first = str(error).partition("\n")[0]
            raise WorkerError(
                f"{first}: most often it was killed for want of memory; fewer data.num_workers, or 0, may help"
            ) from error


@dataclass(frozen=True)
class _Batch:
    """Which samples."""

    epoch: int
    number: int
    samples: list[int]


@dataclass(frozen=True)
class _Failed:
    """What a worker sends in place of a batch: exceptions do not travel well between processes."""

    sample: int
    text: str
    trace: str

    def error(self) -> SampleError:
        error = SampleError(f"sample {self.sample} of the data set: {self.text}")
        error.add_note(self.trace)
        return error


class _Order:
    """The batches of the epoch that is loaded now."""

    batches: list[_Batch]

    def __iter__(self) -> Iterator[_Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Seeded(Dataset[Any]):
    """Loads and collates the samples of a batch with generators seeded for that batch."""

    def __init__(self, dataset: Dataset[Any], seed: int, collate: Callable[[list[Any]], Any]) -> None:
        self._dataset, self._seed, self._collate = dataset, seed, collate

    def __getitems__(self, batch: _Batch) -> Any:
        with same_random_numbers():
            seed = _mix(self._seed, batch.epoch, batch.number)
            torch.manual_seed(seed)
            random.seed(seed)
            if "numpy" in sys.modules:
                sys.modules["numpy"].random.seed(seed % 2**32)
            found = []
            for sample in batch.samples:
                try:
                    found.append(self._dataset[sample])
                except Exception as error:
                    return _Failed(sample, f"{type(error).__name__}: {error}", traceback.format_exc())
            return self._collate(found)


def _as_it_is(batch: Any) -> Any:
    """It is collated already."""
    return batch


# torch's words when it waits for a worker's batch, and those of its handler of SIGCHLD, which may be first.
_WORKER_DIED = re.compile(r"DataLoader worker.* (exited unexpectedly|is killed by signal)")

_TO_THE_GROUP = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C and pre-emption reach all processes of a group


@contextmanager
def _held_back() -> Iterator[None]:
    """Workers that are started here get such a signal only when they have decided what to do with it."""
    if sys.platform == "win32":  # where a signal reaches one process
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_THE_GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Deaf:
    """Workers that leave SIGTERM and Ctrl-C to the process that trains.

    That one finishes its step, for which it may need them. At its exit multiprocessing ends them with SIGTERM and waits
    for them, so from then on they hear it.
    """

    def __init__(self) -> None:
        self._over = RawValue("b", 0)
        atexit.register(self._end)

    def _end(self) -> None:
        self._over.value = 1

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0) if self._over.value else None)
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _TO_THE_GROUP)


def _mix(*numbers: int | str) -> int:
    """A seed from several numbers; neighbours have nothing in common."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8]) >> 1
