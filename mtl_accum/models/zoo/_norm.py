"""Normalisations of feature maps, by name."""

from __future__ import annotations

import math
from typing import Self

from torch import nn

__all__ = ["FrozenBatchNorm2d", "norm2d"]

_GROUPS = 32


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose statistics and affine parameters stay as they are, in training too: an affine map per channel.

    Usual where a pretrained network is fine-tuned with few images a batch; samples do not touch each other in it.

    Args:
        channels: of the feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)


def norm2d(norm: str, channels: int) -> nn.Module:
    """A normalisation of (N, channels, H, W).

    Args:
        norm: "batch" (Ioffe and Szegedy, 2015), whose statistics are those of the samples that go through at once;
            "group" (Wu and He, 2018) with 32 groups, or as many as divide the channels; or "frozen".
        channels: of the feature map.

    Raises:
        ValueError: there is no such normalisation.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)
    if norm == "frozen":
        return FrozenBatchNorm2d(channels)
    raise ValueError(f"norm must be batch, group or frozen; found {norm!r}")
