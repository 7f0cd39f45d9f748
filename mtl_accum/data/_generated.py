"""Data sets that are drawn, sample by sample, when they are asked for: real shapes and types without files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mtl_accum._validate import natural, positive_int, workers
from mtl_accum.data._loader import Loader, _mix

__all__ = ["Generated", "Recipe"]

Recipe = Callable[[np.random.Generator], dict[str, np.ndarray]]  # draws one sample


@final
@dataclass(frozen=True)
class Generated:
    """Samples of a recipe: the same ones for the same seed, in every epoch and with any number of workers.

    Args:
        recipe: draws a sample, a dict of arrays, from a generator of random numbers.
        batch_size: samples of a batch; a training epoch leaves out a last batch that is shorter.
        samples: of a training epoch.
        test_samples: of the test data.
        validation_samples: of the validation data; 0 keeps none.
        seed: of the samples and of the order of the training samples.
        num_workers: processes that draw the training data; 0 draws in this one.

    Raises:
        ValueError: an argument is out of range.
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
        """Shuffled training batches, all of one size."""
        drawn = _Drawn(self.recipe, "train", self.samples, self.seed)
        return Loader(
            drawn, self.batch_size, shuffle=True, drop_last=True, seed=self.seed, num_workers=self.num_workers
        )

    def validation(self) -> Loader | None:
        """Validation batches, in a fixed order; None where none are kept."""
        if not self.validation_samples:
            return None
        return Loader(_Drawn(self.recipe, "validation", self.validation_samples, self.seed), self.batch_size)

    def test(self) -> Loader:
        """Test batches, in a fixed order."""
        return Loader(_Drawn(self.recipe, "test", self.test_samples, self.seed), self.batch_size)


class _Drawn(Dataset[dict[str, Tensor]]):
    def __init__(self, recipe: Recipe, part: str, samples: int, seed: int) -> None:
        self._recipe, self._part, self._samples, self._seed = recipe, part, samples, seed

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        drawn = self._recipe(np.random.default_rng(_mix(self._seed, self._part, index)))
        return {name: torch.from_numpy(np.asarray(value)) for name, value in drawn.items()}
