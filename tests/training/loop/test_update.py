"""Between gradient and step: clipping, NaN, loss scaling; and the precisions."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Accumulated, Cached, Edition, MultiTaskModel, PerTask, Split, SummedLoss, Task
from mtl_accum.training.loop import TrainConfig, Training
from mtl_accum.training.loop._precision import Precision
from tests.training.runs import CPU, assert_same, make, outcome


def batches(count: int = 6, samples: int = 8) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(samples, 3, generator=generator) for _ in range(count)]
    return [{"x": x, "y": x.sum(1, keepdim=True)} for x in rows]


@pytest.mark.parametrize("edition", [SummedLoss(), PerTask(), Split()], ids=repr)
def test_clipping_is_of_the_whole_gradient(edition: Edition) -> None:
    """As torch's own function clips it, after all gradients have added up."""
    expected = make().model
    torch.manual_seed(1)
    stepper = torch.optim.SGD(expected.parameters(), lr=0.1)
    for batch in batches():
        stepper.zero_grad()
        SummedLoss().forward_backward(expected.trunk, expected.tasks, batch)
        nn.utils.clip_grad_norm_(expected.parameters(), 0.3)
        stepper.step()
    net = make().model
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    Training(net, batches(), [edition], optimizer, TrainConfig(epochs=1, clip_norm=0.3), device=CPU).run()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def broken(place: int, key: str, value: float = math.nan) -> list[dict[str, Tensor]]:
    found = batches()
    found[place][key] = found[place][key].clone()
    found[place][key][2] = value
    return found


@pytest.mark.parametrize(("key", "value"), [("x", math.nan), ("y", math.nan), ("y", math.inf)])
def test_a_nan_is_skipped_and_leaves_no_trace(key: str, value: float, caplog: pytest.LogCaptureFixture) -> None:
    """Statistics of batch normalisation too; the other steps are those of a run that never saw that batch."""
    with caplog.at_level(logging.WARNING, logger="mtl_accum"):
        run = make(broken(3, key, value), on_nan="skip", epochs=1, warmup_steps=0, schedules=[Split()])
        run.model.trunk.module[3].p = 0.0  # dropout would draw other masks without the step
        run.run()
    good = batches()
    expected = make(good[:3] + good[4:], on_nan="skip", epochs=1, warmup_steps=0, schedules=[Split()])
    expected.model.trunk.module[3].p = 0.0
    expected.run()
    assert (run.update.skipped, expected.update.skipped) == (1, 0)
    assert "step 4: the loss of a, b is NaN or infinite; nothing changed (1 skipped so far)" in caplog.text
    histories = outcome(run)[1]
    assert not math.isfinite(histories["a"].pop(3))
    assert not math.isfinite(histories["b"].pop(3))
    assert_same((outcome(run)[0], histories), outcome(expected))


class Steep(torch.autograd.Function):
    """Its value is fine, its derivative is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.nan


def test_a_gradient_that_is_nan_names_its_parameter(caplog: pytest.LogCaptureFixture) -> None:
    net = make().model
    net.tasks["b"].head = nn.Sequential(nn.Linear(6, 1), _Module(Steep.apply))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    run = Training(net, batches(1), [SummedLoss()], optimizer, TrainConfig(epochs=1, on_nan="skip"), device=CPU)
    before = net.tasks["a"].head.weight.clone()
    with caplog.at_level(logging.WARNING, logger="mtl_accum"):
        run.run()
    assert "step 1: the gradient of trunk.module.0.weight is NaN or infinite" in caplog.text
    assert torch.equal(net.tasks["a"].head.weight, before)


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_raising_names_task_and_step() -> None:
    with pytest.raises(
        FloatingPointError, match=r"task 'a': loss is nan at step 4; .*on_nan=skip leaves such steps out"
    ):
        make(broken(3, "y"), epochs=1).run()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_nan": "cry"}, "on_nan must be one of raise, skip; found 'cry'"),
        ({"clip_norm": 0.0}, "clip_norm must be a number above 0, or null; found 0.0"),
        ({"precision": "int4"}, "precision must be one of fp32, tf32, bf16, fp16; found 'int4'"),
        ({"accumulate": 0}, "accumulate must be a positive integer"),
        ({"patience": 3}, "patience: expected monitor, a measure to look at; found none"),
        ({"monitor_mode": "best"}, "monitor_mode must be min or max; found 'best'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(batches(), **settings)


EDITIONS = [PerTask(), Split(), Split(order="reverse"), Cached(chunk_size=3), Accumulated(Split(), 2)]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
def test_every_edition_in_every_precision(edition: Edition, precision: str) -> None:
    def train(edition: Edition) -> dict[str, list[float]]:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(3, 16), nn.GroupNorm(2, 16), nn.ReLU())
        net = MultiTaskModel(trunk, {name: Task(nn.Linear(16, 1), nn.MSELoss(), "y") for name in "ab"}, "x")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
        data = batches(8, 7) * 4
        return Training(net, data, [edition], optimizer, TrainConfig(epochs=1, precision=precision), device=CPU).run()

    found, expected = train(edition), train(SummedLoss())
    tolerance = {"fp32": 1e-4, "tf32": 1e-4}.get(precision, 0.05)
    for name, history in expected.items():
        assert found[name] == pytest.approx(history, rel=tolerance, abs=tolerance)
        assert history[-1] < 0.5 * history[0]


def test_autocast_is_where_trunk_and_heads_run() -> None:
    net = make().model
    seen = []
    for module in (net.trunk.module[0], net.tasks["a"].head):
        module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    run = Training(net, batches(1), [Split()], optimizer, TrainConfig(epochs=1, precision="bf16"), device=CPU)
    run.run()
    assert seen == [torch.bfloat16] * 2
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in net.parameters()} == {torch.float32}


def test_fp16_scales_and_unscales() -> None:
    """An overflow leaves the step out and lowers the scale; the gradient that the optimizer sees is unscaled."""
    precision = Precision("fp16", CPU)
    assert precision.scaler is not None
    run = make(batches(), epochs=1, precision="fp16", clip_norm=1e9)
    run.precision.scaler.scale(torch.ones(()))  # makes its state
    run.precision.scaler.update(256.0)
    run.run()
    plain = make(batches(), epochs=1, clip_norm=1e9)
    plain.run()
    assert float(run.update.norm) == pytest.approx(float(plain.update.norm), rel=0.1)
    wild = make(batches(), epochs=1, precision="fp16")
    wild.precision.scaler.scale(torch.ones(()))
    wild.precision.scaler.update(2.0**40)
    wild.run()
    assert wild.update.skipped > 0
    assert wild.precision.scaler.get_scale() < 2.0**40
