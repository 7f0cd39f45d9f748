"""What rounding hides and what it must not: float32 inside, gradients that are truly 0, 16 bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Accumulated, Cached, PerTask, Split, SummedLoss, Task, check
from tests.verify.networks import Trunk, batch, before_batch_norm, tasks


class Rms(nn.Module):
    """Computes in float32 inside, as the norm of Llama, T5, Mistral, Qwen and Gemma does."""

    def __init__(self, inside: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight, self.inside = nn.Parameter(torch.ones(8)), inside

    def forward(self, x: Tensor) -> Tensor:
        h = x.to(self.inside)
        return self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class OneWrong:
    """The right gradient, but for one parameter's."""

    def __init__(self, parameters: list[Any], factor: float, number: int | None = None) -> None:
        self.parameters, self.factor, self.number = parameters, factor, number

    def forward_backward(self, trunk: Any, tasks: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = Split().forward_backward(trunk, tasks, batch)
        owned = [p for module in (trunk, *tasks.values()) for p in module.parameters() if p.grad is not None]
        chosen = min(owned, key=lambda p: float(p.grad.norm())) if self.number is None else owned[self.number]
        chosen.grad = None if self.factor is None else chosen.grad * self.factor
        return losses


SOUND = {"per_task": PerTask(), "split": Split(), "cached": Cached(4), "pieces": Accumulated(Split(), 3)}
INSIDE = {
    "own precision": lambda: Trunk(),
    "float32 inside": lambda: Trunk(nn.Sequential(Rms(), nn.Linear(8, 8), Rms())),
    "dropout": lambda: Trunk(nn.Dropout(0.3)),
    "noise": lambda: Trunk(Noise()),
}


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


@pytest.mark.parametrize("network", INSIDE)
def test_sound_editions_pass(network: str) -> None:
    result = check(INSIDE[network](), tasks(), batch(), editions=SOUND)
    assert {name: edition.verdict for name, edition in result.editions.items()} == dict.fromkeys(SOUND, "exact")


@pytest.mark.parametrize("network", INSIDE)
@pytest.mark.parametrize(("factor", "number"), [(1.01, 0), (1.001, 1), (2.0, None), (0.5, None), (None, 0)], ids=str)
def test_wrong_editions_never_pass(network: str, factor: float | None, number: int | None) -> None:
    result = check(INSIDE[network](), tasks(), batch(), editions={"wrong": OneWrong([], factor, number)})
    assert result.editions["wrong"].verdict == "DIFFERS"


def test_rounding_is_measured_where_a_difference_exceeds_the_bound() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 8), Rms(), nn.Linear(8, 8), Rms())
    heads = {f"t{i}": Task(nn.Linear(8, 3), nn.MSELoss(), lambda b: b[:, :3]) for i in range(3)}
    result = check(trunk, heads, torch.randn(8, 5))
    double = result.editions["per_task"].double
    assert result.passed()
    assert 1e-12 < double.gradients < double.rounding < 1e-5


def test_a_gradient_that_is_truly_zero_is_no_error() -> None:
    result = check(*before_batch_norm(), editions={"per_task": PerTask(), "split": Split()})
    assert all(edition.double is None for edition in result.editions.values())
    assert result.passed()
    assert max(edition.own.gradients for edition in result.editions.values()) > 1e-5  # what was called wrong


def test_16_bit_alone_decides_nothing() -> None:
    trunk, heads, data = Trunk().bfloat16(), tasks(), batch()
    heads = {name: task.bfloat16() for name, task in heads.items()}
    data = {name: value.bfloat16() for name, value in data.items()}
    result = check(lambda b: trunk(b), heads, data, editions={"split": Split(), "wrong": OneWrongOf(trunk)})
    assert result.editions["split"].verdict == "not decided"
    assert "torch.bfloat16 is too large" in result.editions["split"].undecided
    assert not result.editions["split"].passed()
    assert result.editions["wrong"].verdict == "DIFFERS"
    assert "not decided" in str(result)


class OneWrongOf:
    def __init__(self, module: Trunk) -> None:
        self.module = module

    def forward_backward(self, trunk: Any, tasks: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = SummedLoss().forward_backward(trunk, tasks, batch)
        self.module.first.weight.grad *= 2  # type: ignore[assignment]
        return losses


def test_random_numbers_that_cannot_be_turned_off_leave_pieces_undecided() -> None:
    class Shuffles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x[torch.randperm(len(x))]

    result = check(Trunk(Shuffles()), tasks(), batch(), editions={"split": Split(), "pieces": SOUND["pieces"]})
    assert result.editions["split"].verdict == "exact"
    assert result.editions["pieces"].verdict == "not decided"
