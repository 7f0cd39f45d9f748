"""CUDA's choice of operators on the CPU: what an operator makes and keeps, and that nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtl_accum.prediction import _cuda_operators
from mtl_accum.prediction._cuda_operators import cuda_operators, prefer_foreach


class Names(TorchDispatchMode):
    """The operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def operators(function: Any, *args: Any) -> Any:
    with Names() as seen:
        function(*args)
    return seen.names


@pytest.mark.parametrize("drop", [nn.Dropout(0.3), lambda x: F.dropout(x, 0.3), lambda x: torch.dropout(x, 0.3, True)])
def test_dropout_keeps_one_byte_an_element(drop: Any) -> None:
    x = torch.randn(50, requires_grad=True)
    assert "native_dropout" not in operators(drop, x)
    with cuda_operators():
        assert operators(drop, x) == ["native_dropout"]
        (mask,) = (saved for saved in vars_of(drop(x).grad_fn) if isinstance(saved, Tensor))
        assert mask.dtype is torch.bool
        assert operators(lambda t: F.dropout(t, 0.3, training=False), x) == []
        assert not F.dropout(x, 1.0).any()
    assert "native_dropout" not in operators(drop, x)


def vars_of(node: Any) -> list[Any]:
    return [getattr(node, name) for name in dir(node) if name.startswith("_saved")]


@pytest.mark.parametrize(
    ("dtype", "mask", "expected"),
    [
        (torch.bfloat16, None, "_scaled_dot_product_flash_attention"),
        (torch.float32, None, "_scaled_dot_product_efficient_attention"),
        (torch.bfloat16, torch.ones(5, 5, dtype=torch.bool).tril(), "_scaled_dot_product_efficient_attention"),
        (torch.float64, None, "_softmax"),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_attention_takes_the_kernel_that_cuda_takes(dtype: torch.dtype, mask: Any, expected: str, groups: int) -> None:
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True), cuda_operators():
        q = torch.randn(2, 4, 5, 8, dtype=dtype, requires_grad=True)
        k = torch.randn(2, 4 // groups, 5, 8, dtype=dtype, requires_grad=True)

        def step() -> None:
            F.scaled_dot_product_attention(
                q, k, k, attn_mask=mask, dropout_p=0.1, enable_gqa=groups > 1
            ).sum().backward()

        seen = operators(step)
        assert any(name.startswith(expected) for name in seen), seen
        assert k.grad.shape == k.shape


def test_autocast_of_multi_head_attention_reaches_the_flash_kernel() -> None:
    layer = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
    with (
        torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True),
        cuda_operators(),
        torch.autocast("cuda", torch.bfloat16),
    ):
        x = torch.randn(3, 7, 16)
        assert "_scaled_dot_product_flash_attention" in operators(lambda: layer(x, x, x, need_weights=False))


@pytest.mark.parametrize(
    ("function", "here", "there"),
    [
        (lambda x: F.softmax(x, 1), torch.bfloat16, torch.float32),
        (lambda x: x.softmax(1, dtype=torch.float64), torch.float64, torch.float64),
        (lambda x: F.group_norm(x, 2), torch.bfloat16, torch.float32),
        (lambda x: F.layer_norm(x, (4,)), torch.bfloat16, torch.float32),
        (lambda x: F.interpolate(x[..., None, :], scale_factor=2, mode="bilinear"), torch.bfloat16, torch.float32),
        (torch.exp, torch.bfloat16, torch.float32),
        (lambda x: x**2, torch.bfloat16, torch.float32),
        (lambda x: x.sum(1), torch.bfloat16, torch.float32),
        (lambda x: F.mse_loss(x, x), torch.float32, torch.float32),
        (lambda x: torch.trace(x[:, 0]), torch.float32, torch.bfloat16),
        (lambda x: torch.mv(torch.ones(2, 4), x[0, 0].float()), torch.float32, torch.bfloat16),
        (lambda x: F.linear(x, torch.ones(2, 4)), torch.bfloat16, torch.bfloat16),
        (F.gelu, torch.bfloat16, torch.bfloat16),
    ],
)
def test_autocast_casts_by_cudas_lists(function: Any, here: torch.dtype, there: torch.dtype) -> None:
    x = torch.randn(3, 4, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert function(x).dtype is here
    with cuda_operators(), torch.autocast("cuda", torch.bfloat16):
        assert torch.is_autocast_enabled("cpu")
        assert function(x).dtype is there
    with torch.autocast("cpu", torch.bfloat16):
        assert function(x).dtype is here


def test_gradients_pass_the_casts() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    with cuda_operators(), torch.autocast("cuda", torch.bfloat16):
        F.cross_entropy(F.layer_norm(F.linear(x, torch.ones(3, 6)), (3,)), torch.tensor([0, 1, 2, 0])).backward()
    assert x.grad.dtype is torch.float32


def test_the_lists_name_operators_that_cuda_casts() -> None:
    """Held against torch's own registrations, so that a new version's list is noticed."""
    theirs = {
        name.removeprefix("aten::").partition(".")[0]
        for name in torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA")
    }
    listed = _cuda_operators._LOWER | _cuda_operators._PROMOTE | _cuda_operators._FLOAT32_RESULT
    assert not listed - theirs


def test_foreach_where_the_user_left_it_open() -> None:
    parameters = [nn.Parameter(torch.ones(1))]
    left = torch.optim.AdamW(parameters)
    chosen = torch.optim.AdamW(parameters, foreach=False)
    fused = torch.optim.AdamW(parameters, fused=True)
    for optimizer in (left, chosen, fused):
        prefer_foreach(optimizer)
    assert left.param_groups[0]["foreach"] is True
    assert chosen.param_groups[0]["foreach"] is False
    assert not fused.param_groups[0]["foreach"]
