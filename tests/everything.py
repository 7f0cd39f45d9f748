"""All that a training step may change."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All that a step may change, as values."""
    state = {} if optimizer is None else optimizer.state_dict()
    return [
        *(value.clone() for value in model.state_dict().values()),
        *(torch.as_tensor(leaf).clone() for leaf in torch.utils._pytree.tree_leaves(state) if leaf is not None),
        torch.get_rng_state(),
        torch.tensor(random.getstate()[1]),
        torch.as_tensor(np.random.get_state()[1].astype("int64")),
    ]
