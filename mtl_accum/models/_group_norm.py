"""BatchNorm out, GroupNorm in: what lets a network run in pieces."""

from __future__ import annotations

import math

import torch
from torch import nn

from mtl_accum._validate import positive_int

__all__ = ["to_group_norm"]


def to_group_norm(module: nn.Module, groups: int = 32) -> nn.Module:
    """Replace every BatchNorm by a GroupNorm of the same affine parameters (Wu and He, 2018, Group Normalization).

    The network is another one afterwards and wants training or fine-tuning; running statistics are gone.

    Args:
        module: changed in place, unless it is a BatchNorm itself.
        groups: of each GroupNorm, or the greatest common divisor of that and its channels.

    Returns:
        The module, or the GroupNorm that takes its place.

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
    made = nn.GroupNorm(
        math.gcd(groups, norm.num_features),
        norm.num_features,
        eps=norm.eps,
        affine=norm.affine,
        device=like.device,
        dtype=like.dtype if like.is_floating_point() else None,
    )
    if norm.affine:
        made.weight, made.bias = norm.weight, norm.bias
    return made.train(norm.training)
