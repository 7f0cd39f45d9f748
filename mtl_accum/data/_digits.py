"""Handwritten digits of scikit-learn as a data set of two tasks: classify the digit, remove the noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mtl_accum._validate import fraction, natural, not_negative, positive_int, share, workers
from mtl_accum.data._loader import Loader

__all__ = ["Digits"]


@dataclass(frozen=True)
class Digits:
    """1,797 real scans of 8x8 pixels (Alpaydin and Kaynak, 1998, Optical Recognition of Handwritten Digits).

    A batch is a dict: `image` (N, 1, 8, 8), the clean image plus Gaussian noise; `clean` (N, 1, 8, 8), values
    from 0 to 1; `digit` (N,), int64. Training noise is drawn for every sample and epoch, test noise once.

    Args:
        batch_size: Number of samples in a training batch; the last batch of an epoch may be shorter.
        noise: Standard deviation of the noise; pixels are in 0 to 1.
        test_fraction: Share of the samples kept for testing, the same samples in every run.
        seed: Seed of the order of the training samples and of the test noise.
        validation_fraction: Share of the training samples kept for validation; 0 keeps none.
        num_workers: Number of processes that load the training data; 0 loads in this process.

    Raises:
        ValueError: An argument is out of range, or, when data is loaded, the fractions leave too few samples.
    """

    batch_size: int = 256
    noise: float = 0.15
    test_fraction: float = 0.25
    seed: int = 0
    validation_fraction: float = 0.0
    num_workers: int = 0

    def __post_init__(self) -> None:
        positive_int("batch_size", self.batch_size)
        natural("seed", self.seed)
        workers("num_workers", self.num_workers)
        share("validation_fraction", self.validation_fraction)
        not_negative("noise", self.noise)
        fraction("test_fraction", self.test_fraction)

    def train(self) -> Loader:
        """Return shuffled training batches."""
        clean, digit = self._part("train")
        noisy = _Noisy(clean, digit, self.noise, None)
        return Loader(noisy, self.batch_size, shuffle=True, seed=self.seed, num_workers=self.num_workers)

    def validation(self) -> Loader | None:
        """Return validation batches in a fixed order with fixed noise, or None if there is no validation data."""
        return self._fixed("validation") if self.validation_fraction else None

    def test(self) -> Loader:
        """Return test batches in a fixed order with fixed noise."""
        return self._fixed("test")

    def _fixed(self, part: str) -> Loader:
        clean, digit = self._part(part)
        noise = self.noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(self.seed))
        return Loader(_Noisy(clean, digit, self.noise, noise), self.batch_size)

    def _part(self, part: str) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        clean = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0  # pixel values are 0 to 16
        digit = torch.tensor(digits.target, dtype=torch.int64)
        parts = {}
        try:
            train, parts["test"] = train_test_split(
                torch.arange(len(digit)), test_size=self.test_fraction, random_state=0, stratify=digit
            )
            if self.validation_fraction:
                train, parts["validation"] = train_test_split(
                    train, test_size=self.validation_fraction, random_state=0, stratify=digit[train]
                )
        except ValueError as error:
            fractions = f"test_fraction={self.test_fraction}, validation_fraction={self.validation_fraction}"
            raise ValueError(f"{fractions} leave too few samples: {error}") from error
        indices = {"train": train, **parts}[part]
        return clean[indices], digit[indices]


class _Noisy(Dataset[dict[str, Tensor]]):
    """Digits with noise: the given noise, or random noise for every access if it is None."""

    def __init__(self, clean: Tensor, digit: Tensor, scale: float, noise: Tensor | None) -> None:
        self._clean, self._digit, self._scale, self._noise = clean, digit, scale, noise

    def __len__(self) -> int:
        return len(self._digit)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        clean = self._clean[index]
        noise = self._scale * torch.randn(clean.shape) if self._noise is None else self._noise[index]
        return {"image": clean + noise, "clean": clean, "digit": self._digit[index]}
