"""Assertions that an edition computes the gradient of the summed loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_accum.editions import Edition, SummedLoss
from mtl_accum.testing._workloads import Workload
from mtl_accum.verify import gradient_difference

__all__ = ["BOUNDS", "StepResult", "assert_bit_equal", "assert_same_gradient", "run_edition"]

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}


@dataclass(frozen=True)
class StepResult:
    """Everything that one `forward_backward` returns or changes.

    Attributes:
        losses: Losses by task, as the edition returned them.
        gradients: Gradients by parameter; None where a parameter received none.
        buffers: Values of the buffers after the call.
        random: State of torch's CPU generator after the call.
    """

    losses: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    random: Tensor


def run_edition(edition: Edition, load: Workload, seed: int = 5) -> StepResult:
    """Call an edition once, from zero gradients, and restore the buffers afterwards.

    Args:
        edition: Edition to call.
        load: Network, tasks and batch to call it with.
        seed: Seed of torch's generator for the call.
    """
    before = copy.deepcopy(dict(load.modules.named_buffers()))
    for parameter in load.modules.parameters():
        parameter.grad = None
    torch.manual_seed(seed)
    losses = edition.forward_backward(load.trunk, load.tasks, load.batch)
    result = StepResult(losses, load.gradients(), load.buffers(), torch.get_rng_state())
    with torch.no_grad():
        for name, buffer in load.modules.named_buffers():
            buffer.copy_(before[name])
    return result


def assert_same_gradient(
    edition: Edition,
    make: Callable[[], Workload],
    *,
    oracle: Edition | None = None,
    bound: float | None = None,
) -> None:
    """Assert that losses, gradients, buffers and the random stream end as under SummedLoss of the same network.

    Args:
        edition: Edition under test.
        make: Function that builds the network.
        oracle: Edition that computes the expected gradient; SummedLoss by default.
        bound: Largest difference allowed; 1e-12 in float64 and 1e-5 in float32 by default.

    Raises:
        AssertionError: A loss, gradient or buffer differs, or the random stream ends elsewhere.
    """
    load = make()
    expected, result = run_edition(oracle or SummedLoss(), load), run_edition(edition, load)
    assert list(result.losses) == list(load.tasks)
    dtype = next(load.modules.parameters()).dtype
    bound = BOUNDS[dtype] if bound is None else bound
    assert any(gradient is not None and gradient.any() for gradient in expected.gradients.values())
    assert gradient_difference(result.gradients, expected.gradients) <= bound
    for name, loss in expected.losses.items():
        assert not result.losses[name].requires_grad
        torch.testing.assert_close(result.losses[name], loss, rtol=bound, atol=bound)
    for name, buffer in expected.buffers.items():
        torch.testing.assert_close(result.buffers[name], buffer, rtol=bound, atol=bound)
    assert torch.equal(result.random, expected.random), "the random stream ended elsewhere"


def assert_bit_equal(edition: Edition, make: Callable[[], Workload]) -> None:
    """Assert that every gradient equals SummedLoss's to the last bit.

    Args:
        edition: Edition under test.
        make: Function that builds the network.

    Raises:
        AssertionError: A gradient differs in at least one bit.
    """
    load = make()
    expected, result = run_edition(SummedLoss(), load), run_edition(edition, load)
    for name, gradient in expected.gradients.items():
        actual = result.gradients[name]
        assert actual is not None
        assert gradient is not None
        assert torch.equal(actual, gradient), name
