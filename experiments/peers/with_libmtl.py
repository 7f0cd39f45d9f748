"""Training loop with LibMTL's parts.

Its `__init__` needs a torchvision from before 2022, and its Trainer is fixed to "cuda:0": neither is used.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from experiments.peers.networks import LR, Batch, MultiTask

__all__ = ["equal_weights"]


def equal_weights(network: MultiTask, batches: Iterable[Batch], rep_grad: bool) -> None:
    """Train with LibMTL's hard parameter sharing and equal weights, put together as in its Trainer."""
    import sys
    from importlib.util import find_spec, module_from_spec

    sys.modules["LibMTL"] = module_from_spec(find_spec("LibMTL"))  # type: ignore[arg-type]  # without its `__init__`, which cannot be imported
    from LibMTL.architecture import HPS
    from LibMTL.weighting import EW

    class Model(HPS, EW):
        pass

    names, device = list(network.heads), next(network.parameters()).device
    model = Model(names, lambda: network.trunk, network.heads, rep_grad, False, device)
    model.init_param()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for batch in batches:
        outputs = model(batch["x"])
        losses = torch.stack([network.losses[name](outputs[name], batch[name]) for name in names])
        optimizer.zero_grad()
        model.backward(losses)
        optimizer.step()
