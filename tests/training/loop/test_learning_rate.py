"""The learning rate follows the effective batch, warms up, and is scheduled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
)

from mtl_accum.training.loop import scale_learning_rate
from mtl_accum.training.loop._learning_rate import make_scheduler


def optimizer(*rates: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.ones(1, requires_grad=True)], "lr": rate} for rate in rates or (0.1,)])


@pytest.mark.parametrize(("rule", "rates"), [("none", [0.1, 0.2]), ("linear", [0.4, 0.8]), ("sqrt", [0.2, 0.4])])
def test_rules(rule: str, rates: list[float]) -> None:
    stepper = optimizer(0.1, 0.2)
    said = scale_learning_rate(stepper, rule, batch_size=64, accumulate=4, base_batch_size=64)
    assert [group["lr"] for group in stepper.param_groups] == pytest.approx(rates)
    assert "256 samples (4 batches of 64)" in said


def test_sentences() -> None:
    assert scale_learning_rate(optimizer(), "none", batch_size=8, accumulate=1, base_batch_size=None) == (
        "A step is 8 samples at a learning rate of 0.1."
    )
    assert scale_learning_rate(optimizer(), "linear", batch_size=64, accumulate=2, base_batch_size=32) == (
        "A step is 128 samples (2 batches of 64), 4 times the base batch of 32: the learning rate is 0.4 instead of "
        "0.1 (linear scaling)."
    )
    assert "an unknown number of samples" in scale_learning_rate(
        optimizer(), "none", batch_size=None, accumulate=2, base_batch_size=None
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "cubic"}, "lr_scaling must be one of none, linear, sqrt; found 'cubic'"),
        ({"base_batch_size": None}, "lr_scaling=linear: expected base_batch_size, to scale by; found none"),
        ({"batch_size": None}, "lr_scaling=linear: expected data.batch_size, to scale by; found none"),
        ({"base_batch_size": 0}, "base_batch_size must be a positive integer"),
    ],
)
def test_what_is_missing(changes: dict[str, Any], message: str) -> None:
    settings = {"rule": "linear", "batch_size": 8, "accumulate": 1, "base_batch_size": 8, **changes}
    with pytest.raises(ValueError, match=message):
        scale_learning_rate(optimizer(), settings.pop("rule"), **settings)


def rates(make: Callable[..., Any] | None, warmup: int, steps: int = 8) -> list[float]:
    stepper = optimizer()
    scheduler, _ = make_scheduler(stepper, make, warmup_steps=warmup)
    found = []
    for _ in range(steps):
        found.append(stepper.param_groups[0]["lr"])
        stepper.step()
        if scheduler is not None:
            scheduler.step()
    return found


def test_warm_up_rises_to_the_rate_and_stays() -> None:
    assert rates(None, 4) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert rates(None, 0) == rates(None, 1) == [0.1] * 8


SCHEDULES = {
    "cosine": lambda stepper: CosineAnnealingLR(stepper, 8, eta_min=0.05),
    "lambda": lambda stepper: LambdaLR(stepper, lambda step: 1 / (1 + step)),
    "one cycle": lambda stepper: OneCycleLR(stepper, max_lr=1.0, total_steps=20),
    "restarts": lambda stepper: CosineAnnealingWarmRestarts(stepper, 3),
}


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_warm_up_multiplies_any_schedule(make: Callable[..., Any]) -> None:
    plain, both = rates(make, 0), rates(make, 4)
    factors = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert both == pytest.approx([factor * rate for factor, rate in zip(factors, plain, strict=True)])


def test_a_plateau_is_asked_after_epochs() -> None:
    scheduler, plateau = make_scheduler(optimizer(), ReduceLROnPlateau, warmup_steps=0)
    assert scheduler is None
    assert isinstance(plateau, ReduceLROnPlateau)
    with pytest.raises(ValueError, match="warmup_steps"):
        make_scheduler(optimizer(), None, warmup_steps=-1)
