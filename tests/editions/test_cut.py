"""`cut` in somebody else's loop."""

from __future__ import annotations

import contextlib
import gc
import threading
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import cut


def test_drop_in() -> None:
    encoder, heads = nn.Linear(4, 6).double(), [nn.Linear(6, n).double() for n in (1, 3)]
    x = torch.randn(5, 4, dtype=torch.float64)
    sum(head(encoder(x)).square().mean() for head in heads).backward()
    expected = encoder.weight.grad.clone()
    encoder.zero_grad()
    with cut(encoder(x)) as z:
        for head in heads:
            head(z).square().mean().backward()
        assert encoder.weight.grad is None
    torch.testing.assert_close(encoder.weight.grad, expected, rtol=1e-13, atol=1e-15)


def test_an_exception_leaves_the_trunk_alone() -> None:
    encoder = nn.Linear(4, 6)
    with pytest.raises(ZeroDivisionError), cut(encoder(torch.randn(5, 4))) as z:
        z.sum().backward()
        raise ZeroDivisionError
    assert encoder.weight.grad is None


def test_nothing_to_send_back() -> None:
    encoder = nn.Linear(4, 6)
    with (
        pytest.warns(UserWarning, match="cut: no gradient reached the representation"),
        cut(encoder(torch.randn(5, 4))) as z,
    ):
        pass
    with cut(torch.randn(3)) as frozen:
        assert not frozen.requires_grad
    assert z.requires_grad
    assert encoder.weight.grad is None


def test_a_tensor_that_occurs_twice_is_one_leaf() -> None:
    weight = torch.ones(3, requires_grad=True)
    y = 2 * weight
    with cut({"a": y, "b": [y]}) as z:
        assert z["a"] is z["b"][0]
        (z["a"] + z["b"][0]).sum().backward()
    assert weight.grad.tolist() == [4.0, 4.0, 4.0]


def test_sixteen_bit_representation_adds_up_in_float32() -> None:
    """64 terms of which bfloat16 would lose every one after the first."""
    weight = torch.ones(1, dtype=torch.bfloat16, requires_grad=True)
    with cut(weight * 1.0) as z:
        (256 * z).sum().backward()
        for _ in range(64):
            z.sum().backward()
    assert weight.grad.item() == 320.0
    assert weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("fails", [False, True])
def test_sixteen_bit_leaves_are_freed(fails: bool) -> None:
    """A hook that knows its own tensor would keep both for ever."""
    freed: list[Any] = []
    gc.disable()
    try:
        weight = torch.ones(1, dtype=torch.bfloat16, requires_grad=True)
        with contextlib.suppress(ZeroDivisionError), cut(weight * 1.0) as z:
            weakref.finalize(z, freed.append, True)
            z.sum().backward()
            if fails:
                raise ZeroDivisionError
        del z
        assert freed
    finally:
        gc.enable()


class Opaque:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_unknown_container_is_refused_by_its_path() -> None:
    z = {"maps": [torch.ones(2, requires_grad=True), Opaque(torch.ones(2))]}
    with (
        pytest.raises(TypeError, match=r"representation\['maps'\]\[1\]: .*found .*Opaque.*register_pytree_node"),
        cut(z),
    ):
        pass


def network() -> tuple[nn.Module, list[nn.Module], Tensor]:
    torch.manual_seed(0)
    return nn.Linear(4, 6), [nn.Linear(6, 1) for _ in range(2)], torch.randn(5, 4)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_of_the_trunk_inside_the_block_is_refused(kind: type[Any]) -> None:
    encoder, heads, x = network()
    both = kind([*encoder.parameters(), *heads[0].parameters()], lr=0.1)
    with (
        pytest.raises(RuntimeError, match=rf"cut: {kind.__name__}.step\(\) ran inside the block, .* after the block"),
        cut(encoder(x)) as z,
    ):
        heads[0](z).sum().backward()
        both.step()
    both.step()  # outside it is nobody's business


def test_a_step_of_the_heads_alone_is_allowed() -> None:
    encoder, heads, x = network()
    own = torch.optim.SGD([p for head in heads for p in head.parameters()], lr=0.1)
    with cut(encoder(x)) as z:
        for head in heads:
            head(z).square().mean().backward()
        own.step()
    assert encoder.weight.grad is not None


def test_a_derivative_with_respect_to_the_input_is_explained() -> None:
    encoder, heads, x = network()
    x.requires_grad_()
    message = r"cut: it differentiates .* behind the representation .*PerTask\(\)"
    with pytest.raises(RuntimeError, match=message), cut(encoder(x)) as z:
        torch.autograd.grad(heads[0](z).sum(), x, create_graph=True)


def test_an_error_of_the_users_own_stays_what_it_is() -> None:
    encoder, _, x = network()
    with pytest.raises(RuntimeError, match="^mine$"), cut(encoder(x)):
        raise RuntimeError("mine")


@pytest.mark.parametrize("reached", [False, True])
def test_only_a_block_without_a_gradient_warns(reached: bool) -> None:
    encoder = nn.Linear(4, 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with cut({"a": encoder(torch.randn(5, 4)), "b": encoder(torch.randn(5, 4))}) as z:
            if reached:
                z["b"].sum().backward()
        with contextlib.suppress(ZeroDivisionError), cut(encoder(torch.randn(5, 4))):
            raise ZeroDivisionError
    assert [(w.category, w.filename) for w in caught] == [(UserWarning, __file__)] * (not reached)


def test_steps_in_nested_blocks_and_in_other_threads() -> None:
    outer, inner, other = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(2, 2)
    step = lambda module: torch.optim.SGD(module.parameters(), 0.1).step()
    with cut(outer(torch.randn(5, 4))) as y:
        with cut(inner(y)) as z:
            z.sum().backward()
            for module in (outer, inner):
                with pytest.raises(RuntimeError, match="ran inside the block"):
                    step(module)
            thread = threading.Thread(target=step, args=(outer,))
            thread.start()
            thread.join()
            step(other)
        step(inner)
        with pytest.raises(RuntimeError, match="ran inside the block"):
            step(outer)
