"""The pages of loops that are the user's own: plain and AMP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from mtl_accum import Accumulated, Cached, Checkpointed, Split
from mtl_accum.editions import Schedule
from tests.trainers.pages import CONVOLUTIONS, PLAIN_STEPS, changed, furthest, run

network = pytest.mark.parametrize("network", [None, CONVOLUTIONS], ids=["the page's", "convolutions"])
steps = pytest.mark.parametrize("steps", [{}, PLAIN_STEPS], ids=["the page's steps", "plain steps"])


@network
@steps
def test_plain_loop(network: Any, steps: Any) -> None:
    assert furthest("plain_loop", network=network, changes=steps) == 0


def test_plain_loop_with_a_factor_that_rounds() -> None:
    three = {"total / 2": "total / 3", "step % 2": "step % 3"}
    assert furthest("plain_loop", changes=three) <= 1e-6


@network
@steps
@pytest.mark.parametrize("dtype", ["torch.float16", "torch.bfloat16"])
def test_amp(network: Any, steps: Any, dtype: str) -> None:
    assert furthest("amp", network=network, changes={**steps, "torch.float16": dtype}) == 0


def test_plain_loop_of_three_tasks_in_reverse_order() -> None:
    third = {'"depth": Task': '"height": Task(dense(1), nn.MSELoss(), "depth"), "depth": Task', "nn.Dropout(0.2), ": ""}
    three = changed(CONVOLUTIONS, third)
    assert furthest("plain_loop", network=three, ours={"Split()": 'Split(order="reverse")'}) == 0
    assert furthest("plain_loop", network=three) > 0, "and in the other order autograd's sum is another one"


@pytest.mark.parametrize("edition", [Split(), Cached(3), Accumulated(Split(), 2), Checkpointed(Split())], ids=repr)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_validation_is_a_plain_evaluation(edition: Schedule, mode: Any) -> None:
    names = run("plain_loop", plain=False)
    model, batch = names["model"].eval(), default_collate(names["rows"][:7])
    with mode():
        z = model.trunk(batch)
        expected = {name: task(z, batch) for name, task in model.tasks.items()}
        total, losses = edition.loss(model.trunk, model.tasks, batch)
    assert not total.requires_grad
    torch.testing.assert_close(total, sum(expected.values()))
    torch.testing.assert_close(losses, expected)
