"""Random numbers of a batch: samples loaded with generators that are seeded for their batch."""

from __future__ import annotations

import hashlib
import random
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from mtl_accum._state import same_random_numbers

__all__ = ["BatchIndex", "LoadingFailure", "SampleError", "SeededDataset", "mix_seeds"]


class SampleError(ValueError):
    """A sample could not be loaded. The message names the sample, and a note has the traceback."""


@dataclass(frozen=True)
class BatchIndex:
    """Position of a batch in training, and the samples in it.

    Attributes:
        epoch: Number of the epoch.
        number: Number of the batch in the epoch.
        samples: Indices of the samples.
    """

    epoch: int
    number: int
    samples: list[int]


@dataclass(frozen=True)
class LoadingFailure:
    """Result of a worker whose sample could not be loaded, as text: many exceptions cannot be pickled.

    Attributes:
        sample: Index of the sample.
        text: Type and message of the exception.
        trace: Traceback.
    """

    sample: int
    text: str
    trace: str

    def error(self) -> SampleError:
        """Return the exception to raise in the training process."""
        error = SampleError(f"sample {self.sample} of the data set: {self.text}")
        error.add_note(self.trace)
        return error


class SeededDataset(Dataset[Any]):
    """Data set of whole batches, each loaded and collated with generators that are seeded for that batch.

    Args:
        dataset: Data set of samples.
        seed: Seed; the seed of a batch depends on it, the epoch and the number of the batch.
        collate: Function from a list of samples to a batch.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, collate: Callable[[list[Any]], Any]) -> None:
        self._dataset, self._seed, self._collate = dataset, seed, collate

    def __getitems__(self, index: BatchIndex) -> Any:
        """Return a batch, or a `LoadingFailure`."""
        with same_random_numbers():
            _seed_generators(mix_seeds(self._seed, index.epoch, index.number))
            samples = []
            for sample in index.samples:
                try:
                    samples.append(self._dataset[sample])
                except Exception as error:
                    return LoadingFailure(sample, f"{type(error).__name__}: {error}", traceback.format_exc())
            return self._collate(samples)


def mix_seeds(*numbers: int | str) -> int:
    """Return a seed that depends on several numbers; neighbouring numbers give unrelated seeds."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8]) >> 1


def _seed_generators(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
