"""Metrics on held-out data."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchmetrics.regression import MeanSquaredError

from mtl_accum import MultiTaskModel, Task
from mtl_accum.training.evaluation import EvalMetric, evaluate

CPU = torch.device("cpu")


def test_head_against_doing_nothing() -> None:
    net = MultiTaskModel(nn.Identity(), {"half": Task(nn.Linear(1, 1), nn.MSELoss(), "y")}, "x")
    nn.init.constant_(net.tasks["half"].head.weight, 0.5)
    nn.init.zeros_(net.tasks["half"].head.bias)
    batches = [
        {"x": torch.tensor([[2.0], [4.0]]), "y": torch.tensor([[1.0], [2.0]])},
        {"x": torch.ones(1, 1)},
    ]
    measures = {"mse": EvalMetric("half", MeanSquaredError()), "input": EvalMetric("half", MeanSquaredError(), "x")}
    assert evaluate(net, measures, batches, device=CPU) == {"mse": 0.0, "input": 2.5}


def test_unknown_task() -> None:
    net = MultiTaskModel(nn.Identity(), {"half": Task(nn.Linear(1, 1), nn.MSELoss(), "y")}, "x")
    with pytest.raises(ValueError, match="measures.m.task must be one of half; found 'whole'"):
        evaluate(net, {"m": EvalMetric("whole", MeanSquaredError())}, [], device=CPU)
