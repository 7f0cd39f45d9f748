"""Conversion of BatchNorm to GroupNorm, so a network can run in pieces of the batch."""

from __future__ import annotations

import math

import torch
from torch import nn

from mtl_accum._validate import positive_int

__all__ = ["to_group_norm"]


def to_group_norm(module: nn.Module, groups: int = 32) -> nn.Module:
    """Replace every BatchNorm by a GroupNorm with the same affine parameters (Wu and He, 2018, Group Normalization).

    The result computes a different function and needs training or fine-tuning. Running statistics are dropped.

    Args:
        module: Module, changed in place unless it is a BatchNorm itself.
        groups: Number of groups of each GroupNorm; if it does not divide the channels, the greatest common divisor of
            both is used.

    Returns:
        The module, or the GroupNorm that replaces it.

    Raises:
        ValueError: groups is less than 1.
    """
    positive_int("groups", groups)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _group_norm(module, groups)
    for name, child in module.named_children():
        setattr(module, name, to_group_norm(child, groups))
    return module


def _group_norm(norm: nn.modules.batchnorm._BatchNorm, groups: int) -> nn.GroupNorm:
    like = next(iter((*norm.parameters(), *norm.buffers())), torch.empty(0))
    group_norm = nn.GroupNorm(
        math.gcd(groups, norm.num_features),
        norm.num_features,
        eps=norm.eps,
        affine=norm.affine,
        device=like.device,
        dtype=like.dtype if like.is_floating_point() else None,
    )
    if norm.affine:
        group_norm.weight, group_norm.bias = norm.weight, norm.bias
    return group_norm.train(norm.training)
