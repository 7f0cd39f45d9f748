"""A small training run with everything that a checkpoint must keep: dropout, statistics, shuffling, schedules."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mtl_accum import Edition, MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.training.loop import TrainConfig, Training

CPU = torch.device("cpu")
SCHEDULES = (Split(), SummedLoss())


class Noisy(Dataset):
    """Samples with noise from torch's, numpy's and Python's generators."""

    def __init__(self, samples: int = 21) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(samples, 3, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        noise = torch.randn(3) + random.random() + float(np.random.rand())
        return {"x": self.x[index] + 0.1 * noise, "y": self.x[index].sum(0, keepdim=True)}


def loader(generator: Any = None) -> DataLoader:
    """Shuffled batches of 4, the last one of 1 sample left out: batch normalisation needs two."""
    return DataLoader(Noisy(), 4, shuffle=True, generator=generator, drop_last=True)


def network() -> MultiTaskModel:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2))
    return MultiTaskModel(trunk, {name: Task(nn.Linear(6, 1), nn.MSELoss(), "y") for name in "ab"}, "x")


def make(
    batches: Any = None,
    callbacks: list[Any] | tuple[()] = (),
    kind: type[Any] = torch.optim.AdamW,
    schedules: list[Edition] | tuple[Edition, Edition] = SCHEDULES,
    **settings: Any,
) -> Training | None:
    """The run and its seeds; nothing is trained yet."""
    random.seed(0)
    np.random.seed(0)
    net = network()
    optimizer = kind(net.parameters(), lr=0.01)
    loop = TrainConfig(**{"epochs": 3, "warmup_steps": 4, **settings})
    batches = loader() if batches is None else batches
    return Training(net, batches, schedules, optimizer, loop, device=CPU, callbacks=callbacks)


def outcome(run: Training) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that must be the same to the last bit."""
    tensors = {name: value.clone() for name, value in run.model.state_dict().items()}
    state = run.optimizer.state_dict()["state"]
    tensors |= {f"{i}.{name}": value.clone() for i, kept in state.items() for name, value in kept.items()}
    return tensors, {name: list(history) for name, history in run.losses.read().items()}


def assert_same(
    found: tuple[dict[str, Tensor], dict[str, Any]], expected: tuple[dict[str, Tensor], dict[str, Any]]
) -> None:
    for name, history in expected[1].items():
        assert found[1][name] == history, name
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        assert torch.equal(found[0][name], value), name
