"""The gradient difference of `compare`: over all leaves, never another mask's, and rounding is named as that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Accumulated, Edition, PerTask, Split, Task
from mtl_accum.measure._worker import MeasurementWorker
from mtl_accum.report._table import difference as cell
from tests.verify.networks import before_batch_norm


def measured(trunk: Any, tasks: Any, batch: Any, edition: Edition, optimizer: Any = None) -> Any:
    bench = MeasurementWorker((trunk, tasks, batch, optimizer), edition)
    bench.prepare()
    return bench.difference()


def parts(dropout: float = 0.0) -> tuple[Any, Any, Tensor]:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 8), nn.Dropout(dropout), nn.Linear(8, 8))
    tasks = {
        "a": Task(nn.Linear(8, 1), nn.MSELoss(), lambda b: b[:, :1]),
        "absent": Task(nn.Linear(8, 1), nn.MSELoss(), lambda b: None),
    }
    return trunk, tasks, torch.randn(7, 4)


def test_other_masks_are_no_difference() -> None:
    found = measured(*parts(dropout=0.5), Accumulated(Split(), 3))
    assert found.value <= 1e-5 and not found.is_rounding
    assert found.absent == ("absent",)


class WrongOutside:
    """Right but for a parameter that no module owns."""

    def __init__(self, parameter: Any) -> None:
        self.parameter = parameter

    def forward_backward(self, trunk: Any, tasks: Any, batch: Any) -> Any:
        losses = Split().forward_backward(trunk, tasks, batch)
        self.parameter.grad *= 1.5
        return losses


@pytest.mark.parametrize("trained", [True, False])
def test_leaves_outside_of_modules_are_compared(trained: bool) -> None:
    trunk, tasks, batch = parts()
    log_variance = nn.Parameter(torch.zeros(()))
    head = tasks["a"]
    losses = {"a": lambda z, b: torch.exp(-log_variance) * head(z, b) + log_variance}
    optimizer = torch.optim.SGD([log_variance], lr=0.0) if trained else None
    found = measured(trunk, losses, batch, WrongOutside(log_variance), optimizer)
    assert found.value == pytest.approx(0.5, rel=1e-3) and not found.is_rounding


def test_a_difference_that_is_rounding_is_named_as_that() -> None:
    found = measured(*before_batch_norm(), PerTask())
    assert found.value > 1e-5 and found.is_rounding
    row = {"gradient_difference": found.value, "gradient_rounding": found.is_rounding}
    assert cell(row).endswith(" (rounding)")
    assert cell({"gradient_difference": 2e-7}) == "2.0e-07"  # of an older report
