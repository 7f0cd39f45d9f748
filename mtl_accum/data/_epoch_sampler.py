"""Batch sampler whose epoch and first batch can be chosen."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mtl_accum.data._seeding import BatchIndex, mix_seeds

__all__ = ["EpochSampler"]


class EpochSampler:
    """Batches of the epoch chosen by `start`, for a DataLoader that lives for many epochs.

    A DataLoader keeps its sampler, and with it its worker processes, from epoch to epoch, so the next epoch is chosen
    here. An iterator takes its batches when it is created: a later `start` does not change it.

    Args:
        samples: Number of samples in the data set.
        batch_size: Number of samples in a batch.
        shuffle: Whether every epoch has its own order.
        drop_last: Whether to leave out a shorter last batch.
        seed: Seed of the order.
    """

    def __init__(self, samples: int, batch_size: int, *, shuffle: bool, drop_last: bool, seed: int) -> None:
        self._samples, self._batch_size, self._shuffle, self._seed = samples, batch_size, shuffle, seed
        whole, rest = divmod(samples, batch_size)
        self.batches_per_epoch = whole + (rest > 0 and not drop_last)
        self._batches: list[BatchIndex] = []

    def start(self, epoch: int, first: int) -> None:
        """Choose the epoch and the first batch of iterators created from now on."""
        order = self._order(epoch)
        starts = range(0, self.batches_per_epoch * self._batch_size, self._batch_size)
        batches = [
            BatchIndex(epoch, number, order[start : start + self._batch_size]) for number, start in enumerate(starts)
        ]
        self._batches = batches[first:]

    def __iter__(self) -> Iterator[BatchIndex]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mix_seeds(self._seed, epoch))
        order = torch.randperm(self._samples, generator=generator) if self._shuffle else torch.arange(self._samples)
        indices: list[int] = order.tolist()
        return indices
