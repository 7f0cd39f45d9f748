"""Lifetime of tensors in a training step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import Split, Task
from tests.prediction.against_the_meter import assert_equal_to_the_byte, predicted_and_measured

SIZE = 1000


class Replaces(nn.Module):
    """Module whose forward replaces its buffer by a new tensor."""

    def __init__(self, name: str = "m") -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("m", torch.zeros(SIZE))
        self.register_buffer("cache", None, persistent=False)
        self.name = name

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        old = getattr(self, self.name)
        setattr(self, self.name, torch.ones(SIZE) if old is None else old * 0.9)
        return self.layer(batch["x"])


@pytest.mark.parametrize("name", ["m", "cache"], ids=["replaced", "made in the first forward"])
def test_a_buffer_that_its_module_replaces_counts_once(name: str) -> None:
    trunk, tasks = Replaces(name), {"a": Task(nn.Linear(8, 1), F.mse_loss, "y")}
    batch = {"x": torch.randn(4, 8), "y": torch.randn(4, 1)}
    predicted, measured = predicted_and_measured(trunk, tasks, batch, Split())
    assert_equal_to_the_byte(predicted, measured)
    assert measured.end_bytes == measured.base_bytes
    parameters = sum(parameter.nbytes for part in (trunk, *tasks.values()) for parameter in part.parameters())
    counters = 4 * 4  # AdamW's, one a parameter
    buffers = sum(buffer.nbytes for buffer in trunk.buffers())
    assert measured.base_bytes == 3 * parameters + counters + buffers + 4 * 9 * 4
