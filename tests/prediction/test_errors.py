"""Errors of steps without data: torch's own messages are recognised, everything else passes unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import MultiTaskModel, Split, Task, predict
from mtl_accum.prediction import PredictionError
from mtl_accum.prediction._errors import _NEEDS_DATA


def host_copy(x: Any) -> Any:
    x.detach().numpy()
    return x


def cuda_stream(x: Any) -> Any:
    torch.Stream("cuda")
    return x


def divided_by_a_value(x: Any) -> Any:
    return x / (1 // (int(x.detach()[0, 0]) - 1))


def split_by_values(x: Any) -> Tensor:
    return torch.cat(x.split(2 * x.detach().long()[:, 0].tolist()))


def step(function: Any) -> Any:
    class Called(nn.Module):
        def forward(self, x: Any) -> Any:
            return function(x)

    trunk = nn.Sequential(nn.Linear(4, 4), Called())
    model = MultiTaskModel(trunk, {"a": Task(nn.Linear(4, 1), nn.MSELoss(), "y")}, "x")
    batch = {"x": torch.randn(6, 4), "y": torch.randn(6, 1)}
    return predict(model.trunk, model.tasks, batch, edition=Split(), device="cpu")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (host_copy, "tensor subclass"),
        pytest.param(
            cuda_stream,
            "support for cuda devices",
            marks=pytest.mark.skipif(torch.version.cuda is not None, reason="a build with CUDA"),
        ),
    ],
)
def test_messages_of_torch_that_stand_for_missing_data(function: Any, text: str) -> None:
    """The table holds parts of torch's messages, so a new version that words one differently fails here."""
    assert text in _NEEDS_DATA
    with pytest.raises(PredictionError, match=rf"the trunk: the step does not run .*{text}.* at test_errors.py, line"):
        step(function)


@pytest.mark.parametrize("function", [divided_by_a_value, split_by_values])
def test_sizes_that_were_made_up_stand_for_missing_data(function: Any) -> None:
    with pytest.raises(PredictionError, match="the trunk: the step does not run on tensors without data"):
        step(function)


def test_other_errors_pass_unchanged() -> None:
    def broken(x: Any) -> None:
        raise RuntimeError("broken")

    def mistyped(x: Any) -> Any:
        return x + "1"

    with pytest.raises(RuntimeError, match="^broken$"):
        step(broken)
    with pytest.raises(TypeError, match="unsupported operand"):
        step(mistyped)
