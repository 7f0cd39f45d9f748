"""Memory runs out in the middle of training: the step is undone, the next schedule takes over, the losses stay."""

from __future__ import annotations

import logging
import random
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Edition, MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.editions._engine import listen
from mtl_accum.planning import format_edition
from mtl_accum.prediction import PredictionError
from mtl_accum.training.loop import NoMemoryLeftError, TrainConfig, Training, _no_memory
from tests.training.injector import FULL, Injector

CPU = torch.device("cpu")
LAST = Split(heads_per_graph=2, order="reverse")
LADDER = [SummedLoss(), Split(order="reverse"), LAST]
STEPS = 4


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * random.random()


def model() -> MultiTaskModel:
    torch.manual_seed(0)
    random.seed(0)
    trunk = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), Noisy())
    tasks = {name: Task(nn.Linear(6, 1), nn.MSELoss(), "y") for name in "ab"}
    return MultiTaskModel(trunk, tasks, "x").double()


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(8, 3, generator=generator, dtype=torch.float64) for _ in range(STEPS)]
    return [{"x": x, "y": x.sum(1, keepdim=True)} for x in rows]


def train(
    injector: Injector | None = None,
    ladder: list[Edition] = LADDER,  # type: ignore[assignment]
    optimizer: type[Any] = torch.optim.AdamW,
    **changes: Any,
) -> tuple[dict[str, Any], MultiTaskModel, torch.optim.Optimizer] | None:
    net = model()
    stepper = optimizer(net.parameters(), lr=0.05)
    run = Training(net, batches(), ladder, stepper, TrainConfig(epochs=1), device=CPU, **changes)
    with listen(injector) if injector is not None else nullcontext():
        losses = run.run()
    return losses, net, stepper


def assert_same(
    found: tuple[dict[str, Any], MultiTaskModel, torch.optim.Optimizer],
    expected: tuple[dict[str, Any], MultiTaskModel, torch.optim.Optimizer],
) -> None:
    losses, net, stepper = found
    for name, history in expected[0].items():
        assert losses[name] == pytest.approx(history, rel=1e-12)
    for name, value in expected[1].state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-10, atol=1e-12)
    state, reference = (s.state_dict()["state"].values() for s in (stepper, expected[2]))
    for one, other in zip(state, reference, strict=True):
        for name in other:
            torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-12)


PHASES = [
    ("zero_grad", "zero_grad"),
    ("trunk", "forward"),
    ("head a", "forward"),
    ("head b", "forward"),
    ("2 heads and trunk", "backward"),
    ("optimizer", "optimizer"),
]


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("number", range(len(PHASES)))
def test_in_every_phase_the_losses_stay(number: int, step: int, caplog: pytest.LogCaptureFixture) -> None:
    injector = Injector(number, {step})
    changes: list[Any] = []
    with caplog.at_level(logging.WARNING, logger="mtl_accum"):
        found = train(injector, on_change=changes.append)
    assert injector.fired == [PHASES[number]]
    assert_same(found, train())
    (record,) = caplog.records
    assert record.message == changes[0]
    assert changes[0] == (
        f"step {step + 1}: SummedLoss() ran out of memory ({FULL}); Split(order='reverse'), with the same gradient, "
        "goes on from there"
    )


def test_two_times_in_one_step_and_the_last_one_keeps_going() -> None:
    injector = Injector(3, {1, 2})
    changes: list[Any] = []
    assert_same(train(injector, on_change=changes.append), train())
    assert [change.partition(":")[0] for change in changes] == ["step 2", "step 2"]
    assert "Split(heads_per_graph=2, order='reverse'), with the same gradient" in changes[1]


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD], ids=lambda kind: kind.__name__)
def test_in_the_middle_of_the_first_optimizer_step(optimizer: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters are half updated and half the state is made; all of it is undone."""
    expected = train(optimizer=optimizer)
    broken = _broken_once(optimizer, at_call=1)
    assert_same(train(optimizer=broken), expected)


def test_in_the_middle_of_a_later_optimizer_step_it_cannot_be_undone() -> None:
    with pytest.raises(NoMemoryLeftError, match=r"step 3: memory ran out in the middle of optimizer.*checkpoint"):
        train(optimizer=_broken_once(torch.optim.SGD, at_call=3))


def test_the_cpu_s_own_error_counts() -> None:
    injector = Injector(2, {0}, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert_same(train(injector), train())


def test_other_errors_pass() -> None:
    injector = Injector(2, {0}, RuntimeError("broken"))
    changes: list[Any] = []
    with pytest.raises(RuntimeError, match="broken"):
        train(injector, on_change=changes.append)
    assert changes == []


def test_after_the_smallest_the_memory_is_broken_down() -> None:
    with pytest.raises(NoMemoryLeftError) as error:
        train(Injector(1, {1, 2, 3}))
    text = str(error.value)
    assert text.startswith(f"step 2: memory ran out in {format_edition(LAST)} ({FULL}); it needs ")
    for words in ("parameters ", "optimizer state ", "activations ", "the most in", "a smaller batch", "job=plan"):
        assert words in text


def test_without_others_to_take_over() -> None:
    with pytest.raises(NoMemoryLeftError, match=r"step 1: memory ran out in Split\(\) \(CUDA out of memory"):
        train(Injector(1, {0}), ladder=[Split()])


def test_what_cannot_be_predicted_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PredictionError("no")

    monkeypatch.setattr(_no_memory, "predict", fail)
    with pytest.raises(NoMemoryLeftError, match=r"Tried to allocate 2.00 GiB\); a smaller batch"):
        train(Injector(1, {0}), ladder=[Split()])


def _broken_once(kind: type[Any], *, at_call: int) -> type[Any]:
    """An optimizer whose step changes one parameter, makes a state, and runs out of memory, once."""

    class Broken(kind):  # type: ignore[misc]
        calls = 0

        def step(self, closure: Any = None) -> None:
            Broken.calls += 1
            if Broken.calls == at_call:
                first, second, *_ = self.param_groups[0]["params"]
                with torch.no_grad():
                    first.add_(1.0)
                self.state[second]["junk"] = torch.ones(3)
                raise torch.OutOfMemoryError(FULL)
            return super().step(closure)

    return Broken
