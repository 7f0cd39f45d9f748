"""Loader of batches that can start at any batch and does not depend on the number of workers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sized
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from mtl_accum._validate import boolean, natural, positive_int, workers
from mtl_accum.data._epoch_sampler import EpochSampler
from mtl_accum.data._seeding import LoadingFailure, SeededDataset
from mtl_accum.data._worker_signals import IgnoreSignals, block_signals

__all__ = ["Loader", "WorkerError"]

# Messages of torch's DataLoader waiting for a batch, and of its SIGCHLD handler, which may be first.
_WORKER_DIED = re.compile(r"DataLoader worker.* (exited unexpectedly|is killed by signal)")


class WorkerError(ValueError):
    """A worker process died."""


class Loader:
    """Batches of a data set, shuffled in every epoch, and the same with any number of workers.

    A batch depends only on the seed, the epoch and its number, including random augmentation: the generators of torch,
    Python and numpy are seeded from these three before its samples are loaded. A run that resumes in the middle of an
    epoch therefore skips batches without loading them, and workers change nothing but the speed.

    Args:
        dataset: Data set with a length and samples by index.
        batch_size: Number of samples in a batch.
        shuffle: Whether every epoch has its own order.
        drop_last: Whether to leave out a shorter last batch.
        seed: Seed of order and augmentation.
        num_workers: Number of processes that load; 0 loads in this process.
        prefetch_factor: Number of batches that each worker loads ahead; None is torch's default.
        pin_memory: Whether to load into page-locked memory, for faster copies to a GPU; None does so if there is a GPU.
        collate: Function from a list of samples to a batch.

    Raises:
        ValueError: An argument is out of range.
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
        self._epoch = 0
        self._latest = object()  # identity of the latest iterator: workers serve one at a time
        self._sampler = EpochSampler(
            len(cast(Sized, dataset)), batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed
        )
        self._loader: DataLoader[Any] = DataLoader(
            SeededDataset(dataset, seed, collate),
            batch_sampler=self._sampler,  # type: ignore[arg-type]  # its items are batches, not lists of indices
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
            collate_fn=_unchanged,
            worker_init_fn=IgnoreSignals() if num_workers else None,
            generator=torch.Generator(),  # for the seeds of workers, so the process's own generator is left alone
        )

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._sampler.batches_per_epoch

    def __iter__(self) -> Iterator[Any]:
        """Iterate over one epoch; every call starts the next epoch."""
        epoch, self._epoch = self._epoch, self._epoch + 1
        return self.at(epoch, 0)

    def at(self, epoch: int, batch: int) -> Iterator[Any]:
        """Iterate over an epoch from a given batch on; earlier batches are not loaded.

        Raises:
            SampleError: A sample could not be loaded.
            WorkerError: A worker process died.
            RuntimeError: Another iterator of this loader was started.
        """
        self._sampler.start(epoch, batch)
        self._latest = this = object()
        try:
            with block_signals():
                batches = iter(self._loader)  # starts the workers, the first time
            for loaded in batches:
                if self._latest is not this:
                    raise RuntimeError("this iterator of a Loader is over: another one has begun; make a second Loader")
                if isinstance(loaded, LoadingFailure):
                    raise loaded.error()
                yield loaded
        except RuntimeError as error:
            if not _WORKER_DIED.search(str(error)):
                raise
            first_line = str(error).partition("\n")[0]
            raise WorkerError(
                f"{first_line}: the usual cause is that memory ran out; fewer data.num_workers, or 0, may help"
            ) from error


def _unchanged(batch: Any) -> Any:
    """Return a batch as it is: `SeededDataset` has collated it."""
    return batch
