"""Synthetic data sets, generated sample by sample on access: realistic shapes and types without files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mtl_accum._validate import natural, positive_int, workers
from mtl_accum.data._loader import Loader
from mtl_accum.data._seeding import mix_seeds

__all__ = ["Generated", "Recipe"]

Recipe = Callable[[np.random.Generator], dict[str, np.ndarray]]  # generates one sample


@final
@dataclass(frozen=True)
class Generated:
    """Data set of generated samples: the same for the same seed, in every epoch and with any number of workers.

    Args:
        recipe: Function that generates a sample, a dict of arrays, from a random generator.
        batch_size: Number of samples in a batch; a training epoch leaves out a shorter last batch.
        samples: Number of samples in a training epoch.
        test_samples: Number of samples in the test data.
        validation_samples: Number of samples in the validation data; 0 means no validation data.
        seed: Seed of the samples and of the order of the training samples.
        num_workers: Number of processes that generate the training data; 0 generates in this process.

    Raises:
        ValueError: An argument is out of range.
    """

    recipe: Recipe
    batch_size: int = 8
    samples: int = 256
    test_samples: int = 64
    validation_samples: int = 0
    seed: int = 0
    num_workers: int = 0

    def __post_init__(self) -> None:
        positive_int("batch_size", self.batch_size)
        positive_int("samples", self.samples)
        positive_int("test_samples", self.test_samples)
        natural("validation_samples", self.validation_samples)
        natural("seed", self.seed)
        workers("num_workers", self.num_workers)
        if not callable(self.recipe):
            raise ValueError(f"recipe must draw a sample from a random generator, found {self.recipe!r:.200}")
        if self.samples < self.batch_size:
            raise ValueError(
                f"samples must be at least batch_size, or there is no batch; found {self.samples} and {self.batch_size}"
            )

    def train(self) -> Loader:
        """Return shuffled training batches, all of the same size."""
        dataset = _Samples(self.recipe, "train", self.samples, self.seed)
        return Loader(
            dataset, self.batch_size, shuffle=True, drop_last=True, seed=self.seed, num_workers=self.num_workers
        )

    def validation(self) -> Loader | None:
        """Return validation batches in a fixed order, or None if there is no validation data."""
        if not self.validation_samples:
            return None
        return Loader(_Samples(self.recipe, "validation", self.validation_samples, self.seed), self.batch_size)

    def test(self) -> Loader:
        """Return test batches in a fixed order."""
        return Loader(_Samples(self.recipe, "test", self.test_samples, self.seed), self.batch_size)


class _Samples(Dataset[dict[str, Tensor]]):
    """Generated samples of one part of the data: training, validation or test."""

    def __init__(self, recipe: Recipe, part: str, samples: int, seed: int) -> None:
        self._recipe, self._part, self._samples, self._seed = recipe, part, samples, seed

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = self._recipe(np.random.default_rng(mix_seeds(self._seed, self._part, index)))
        return {name: torch.from_numpy(np.asarray(value)) for name, value in sample.items()}
