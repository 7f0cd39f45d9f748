"""scikit-learn's bundled handwritten digits, as a two-task data set: name the digit, take the noise away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtl_accum._validate import fraction, not_negative, positive_int

__all__ = ["Digits"]


@dataclass(frozen=True)
class Digits:
    """1,797 real scans of 8x8 pixels (Alpaydin and Kaynak, 1998, Optical Recognition of Handwritten Digits).

    A batch is a dict: `image` (N, 1, 8, 8), the clean image plus Gaussian noise; `clean` (N, 1, 8, 8), values
    from 0 to 1; `digit` (N,), int64. Training noise is drawn anew for every sample and epoch, test noise once.

    Args:
        batch_size: samples of a training batch; the last batch of an epoch may be shorter.
        noise: standard deviation of the noise; the images reach from 0 to 1.
        test_fraction: share of the samples that is kept for testing, the same ones in every run.
        seed: of the order of the training samples and of the test noise.

    Raises:
        ValueError: an argument is out of range.
    """

    batch_size: int = 256
    noise: float = 0.15
    test_fraction: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        positive_int("batch_size", self.batch_size)
        not_negative("noise", self.noise)
        fraction("test_fraction", self.test_fraction)

    def train(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffled training batches."""
        clean, digit, _, _ = self._split()
        order = torch.Generator().manual_seed(self.seed)
        noisy = _Noisy(clean, digit, self.noise, None)
        return DataLoader(noisy, self.batch_size, shuffle=True, generator=order)

    def test(self) -> DataLoader[dict[str, Tensor]]:
        """Test batches, in a fixed order with fixed noise."""
        _, _, clean, digit = self._split()
        noise = self.noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(self.seed))
        return DataLoader(_Noisy(clean, digit, self.noise, noise), self.batch_size)

    def _split(self) -> tuple[Tensor, ...]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        clean = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0  # the scans count 0 to 16
        digit = torch.tensor(digits.target, dtype=torch.int64)
        try:
            train, test = train_test_split(
                torch.arange(len(digit)), test_size=self.test_fraction, random_state=0, stratify=digit
            )
        except ValueError as error:
            raise ValueError(f"test_fraction={self.test_fraction} leaves too few samples: {error}") from error
        return clean[train], digit[train], clean[test], digit[test]


class _Noisy(Dataset[dict[str, Tensor]]):
    def __init__(self, clean: Tensor, digit: Tensor, scale: float, noise: Tensor | None) -> None:
        self._clean, self._digit, self._scale, self._noise = clean, digit, scale, noise

    def __len__(self) -> int:
        return len(self._digit)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        clean = self._clean[index]
        noise = self._scale * torch.randn(clean.shape) if self._noise is None else self._noise[index]
        return {"image": clean + noise, "clean": clean, "digit": self._digit[index]}
