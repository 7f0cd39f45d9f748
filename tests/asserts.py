"""What the tests hold editions against: SummedLoss, from the same weights, buffers and random state."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from mtl_accum import SummedLoss
from mtl_accum.editions import Edition
from mtl_accum.verify._difference import gradient_difference
from tests.workloads import Workload

BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}


def run(edition: Edition, load: Workload, seed: int = 5) -> dict[str, object]:
    """One call from zero gradients; everything that it leaves, with the buffers put back."""
    before = copy.deepcopy(dict(load.modules.named_buffers()))
    for parameter in load.modules.parameters():
        parameter.grad = None
    torch.manual_seed(seed)
    losses = edition.forward_backward(load.trunk, load.tasks, load.batch)
    left = {
        "losses": losses,
        "gradients": load.gradients(),
        "buffers": load.buffers(),
        "random": torch.get_rng_state(),
    }
    with torch.no_grad():
        for name, buffer in load.modules.named_buffers():
            buffer.copy_(before[name])
    return left


def assert_same_gradient(
    edition: Edition,
    make: Callable[[], Workload],
    *,
    oracle: Edition | None = None,
    bound: float | None = None,
) -> None:
    """Losses, gradients, buffers and the random stream end as under SummedLoss of the same network.

    Args:
        edition: what is tested.
        make: builds the network.
        oracle: what computes the gradient that it must equal; by default SummedLoss.
        bound: largest difference; by default 1e-12 in float64 and 1e-5 in float32.
    """
    load = make()
    expected, found = run(oracle or SummedLoss(), load), run(edition, load)
    assert list(found["losses"]) == list(load.tasks)
    dtype = next(load.modules.parameters()).dtype
    bound = BOUND[dtype] if bound is None else bound
    assert any(gradient is not None and gradient.any() for gradient in expected["gradients"].values())
    assert gradient_difference(found["gradients"], expected["gradients"]) <= bound
    for name, loss in expected["losses"].items():
        assert not found["losses"][name].requires_grad
        torch.testing.assert_close(found["losses"][name], loss, rtol=bound, atol=bound)
    for name, buffer in expected["buffers"].items():
        torch.testing.assert_close(found["buffers"][name], buffer, rtol=bound, atol=bound)
    assert torch.equal(found["random"], expected["random"]), "the random stream ended elsewhere"


def assert_bit_equal(edition: Edition, make: Callable[[], Workload]) -> None:
    """Every gradient equals SummedLoss's to the last bit."""
    load = make()
    expected, found = run(SummedLoss(), load), run(edition, load)
    for name, gradient in expected["gradients"].items():
        assert torch.equal(found["gradients"][name], gradient), name
