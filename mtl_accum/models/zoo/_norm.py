"""Normalisation layers for feature maps, by name."""

from __future__ import annotations

import math
from typing import Self

from torch import nn

__all__ = ["FrozenBatchNorm2d", "norm2d"]

_GROUPS = 32


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with frozen statistics and affine parameters, in training too: an affine map per channel.

    Usual where a pretrained network is fine-tuned with few images per batch. Its samples are independent.

    Args:
        channels: Number of channels of the feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)


def norm2d(norm: str, channels: int) -> nn.Module:
    """Build a normalisation layer for (N, channels, H, W).

    Args:
        norm: Name of the normalisation: "batch" (Ioffe and Szegedy, 2015), whose statistics are those of the samples in
            one pass; "group" (Wu and He, 2018) with the greatest common divisor of 32 and `channels` as the number of
            groups; or "frozen".
        channels: Number of channels of the feature map.

    Raises:
        ValueError: There is no such normalisation.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)
    if norm == "frozen":
        return FrozenBatchNorm2d(channels)
    raise ValueError(f"norm must be batch, group or frozen; found {norm!r}")
