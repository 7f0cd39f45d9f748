"""Conversion of BatchNorm to GroupNorm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_accum import Accumulated, Cached, MultiTaskModel, Split, Task, check, to_group_norm


def test_every_batch_norm_is_replaced() -> None:
    net = nn.Sequential(nn.Conv2d(1, 48, 3), nn.BatchNorm2d(48), nn.ModuleList([nn.BatchNorm1d(7, affine=False)]))
    nn.init.constant_(net[1].weight, 2.0)
    weight = net[1].weight
    assert to_group_norm(net) is net
    assert isinstance(net[1], nn.GroupNorm) and net[1].num_groups == 16 and net[1].weight is weight
    assert net[2][0].num_groups == 1 and not net[2][0].affine
    assert isinstance(to_group_norm(nn.BatchNorm3d(6), groups=4), nn.GroupNorm)
    with pytest.raises(ValueError, match="groups must be a positive integer, found 0"):
        to_group_norm(net, 0)


def test_makes_a_network_fit_for_pieces() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    model = MultiTaskModel(trunk, {"y": Task(nn.Linear(4, 2), nn.MSELoss(), "y")}, "x").double()
    batch = {"x": torch.randn(5, 1, 5, 5, dtype=torch.float64), "y": torch.randn(5, 2, dtype=torch.float64)}
    editions = {"cached": Cached(chunk_size=2), "accumulated": Accumulated(Split(), 2)}
    refused = check(model.trunk, model.tasks, batch, editions=editions)
    assert all("to_group_norm(module)" in edition.refusal for edition in refused.editions.values())
    to_group_norm(model)
    checked = check(model.trunk, model.tasks, batch, editions=editions)
    assert checked.passed() and not any(edition.refusal for edition in checked.editions.values())
