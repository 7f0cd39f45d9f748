"""Classification of weights by their values: linear, affine or an obstacle in pieces of a batch."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mtl_accum.models import UncertaintyWeight
from mtl_accum.models._weight import obstacle_in_pieces
from tests.models.networks import Of


def running(s: nn.Parameter, loss: Tensor, seen: list[Tensor] = []) -> Tensor:  # noqa: B006  a weight that changes with every call
    seen.append(loss)
    return loss / len(seen)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda s, loss: torch.log(loss), "not affine"),
        (lambda s, loss: loss ** (s[0] + 0.3), "not affine"),  # it is, as the exponent begins
        (lambda s, loss: loss.clamp(max=10), "not affine"),
        (lambda s, loss: loss.clamp(max=100), "not affine"),
        (lambda s, loss: loss.clamp(max=1e5), "not affine"),
        (lambda s, loss: loss.clamp(min=-100), "not affine"),
        (lambda s, loss: loss if loss.abs() > 0.01 else loss * loss.abs(), "not affine"),
        (lambda s, loss: torch.log1p(1e-4 * loss), "not affine"),
        (lambda s, loss: (s.float().exp() * loss.float() + 100).squeeze(), ""),
        (lambda s, loss: loss / (1 + torch.rand(())), "draws random numbers, which differ in every piece"),
        (lambda s, loss: nn.functional.dropout(loss), "draws random numbers"),
        (lambda s, loss: loss * random.random(), "draws random numbers"),
        (running, "not affine"),
        (lambda s, loss: loss.nothing, r"cannot be evaluated on a copy \(AttributeError"),
        (lambda s, loss: (torch.exp(-s) * loss + s).squeeze(), ""),
    ],
)
def test_obstacles_of_weights(function: Callable[..., Any], reason: str) -> None:
    state = torch.get_rng_state()
    weight = Of(function)
    obstacle = obstacle_in_pieces(weight, "mean")
    assert re.search(reason, obstacle) if reason else obstacle == ""
    assert obstacle == obstacle_in_pieces(weight, "mean")
    assert torch.equal(state, torch.get_rng_state())


class Warm(nn.Module):
    """A weight that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, loss: Tensor) -> Tensor:
        self.calls += self.training  # type: ignore[assignment]
        return loss * (1.0 if self.calls > 1000 else 0.1)


class Switched(nn.Module):
    """A weight that is another function by the mode of a module inside, by a flag, and by a number."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.flag, self.epoch = nn.Dropout(0.5), False, 0

    def forward(self, loss: Tensor) -> Tensor:
        loss = self.drop(loss)
        return torch.log1p(loss) if self.flag or self.epoch > 2 else loss


def test_a_weight_that_changes_its_buffers() -> None:
    weight = Warm()
    assert "changes its buffer 'calls' with every call" in obstacle_in_pieces(weight, "mean")
    assert not weight.calls
    assert obstacle_in_pieces(weight.eval(), "mean") == ""


def test_a_weight_that_is_switched_is_looked_at_again() -> None:
    weight = Switched().eval()
    assert obstacle_in_pieces(weight, "mean") == ""
    weight.drop.train()
    assert "random" in obstacle_in_pieces(weight, "mean")
    weight.drop.eval()
    for name, value in (("flag", True), ("epoch", 3)):
        before = getattr(weight, name)
        setattr(weight, name, value)
        assert "not affine" in obstacle_in_pieces(weight, "mean")
        setattr(weight, name, before)
        assert obstacle_in_pieces(weight, "mean") == ""


def test_a_weight_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, copies = UncertaintyWeight(), []
    monkeypatch.setattr(copy, "deepcopy", lambda *a, real=copy.deepcopy: copies.append(a) or real(*a))
    for _ in range(3):
        assert obstacle_in_pieces(weight, "mean") == ""
    assert len(copies) == 2


def test_weights_without_values() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake, log = UncertaintyWeight(), Of(lambda s, loss: torch.log(s + loss))
        assert obstacle_in_pieces(fake, "mean") == "" and "not affine" in obstacle_in_pieces(log, "mean")
    with torch.device("meta"):
        assert obstacle_in_pieces(UncertaintyWeight(), "mean") == ""
