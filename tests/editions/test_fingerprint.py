"""Two numbers a row: a changed sample shows, rounding does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_accum import Accumulated, Cached, Checkpointed, Edition, Split
from mtl_accum.editions._engine.replay._fingerprint import Fingerprint
from mtl_accum.testing import Workload, assert_same_gradient


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64], ids=str
)
def test_one_changed_sample_shows_and_rounding_does_not(dtype: torch.dtype) -> None:
    z = torch.randn(64, 33, 5).to(dtype)
    first = Fingerprint({"z": z})
    rounded = (z * (1 + torch.finfo(dtype).eps * torch.randint(-1, 2, z.shape))).to(dtype)
    assert not first.differs(Fingerprint({"z": rounded}))
    other = z.clone()
    other[17] *= 0.7
    assert first.differs(Fingerprint({"z": other}))
    shifted = z.clone()
    shifted[17] += 0.3
    assert first.differs(Fingerprint({"z": shifted}))
    swapped = z[torch.randperm(64)]
    assert first.differs(Fingerprint({"z": swapped}))


@pytest.mark.parametrize("width", [1, 6, 12, 768])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
def test_tokens_in_another_order_show(dtype: torch.dtype, width: int) -> None:
    """A trunk that shuffles its tokens by a generator of its own (MAE) keeps every row's norm, and its plain sum."""
    z = 10 * torch.randn(4, 16, width, generator=torch.Generator().manual_seed(1))
    z = (z > 0 if dtype == torch.bool else z).to(dtype)
    first = Fingerprint(z)
    assert first.differs(Fingerprint(z.roll(1, 1)))
    assert first.differs(Fingerprint(z.flip(1)))
    assert not first.differs(Fingerprint(z.clone()))


def test_of_odd_leaves() -> None:
    tree = (torch.arange(6), torch.tensor([True, False]), torch.tensor(2.0), 3, "a", None, torch.empty(0, 3))
    assert not Fingerprint(tree).differs(Fingerprint(tree))
    assert Fingerprint(tree).differs(Fingerprint((torch.arange(6) + 1, *tree[1:])))
    assert Fingerprint(tree).differs(Fingerprint((*tree[:3], 4, *tree[4:])))
    assert Fingerprint(torch.ones(2)).differs(Fingerprint(torch.ones(3)))
    nan = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    assert not Fingerprint(nan).differs(Fingerprint(nan.clone()))
    assert Fingerprint(nan).differs(Fingerprint(nan.nan_to_num()))


VIEWS = {
    "conjugate": torch.conj,
    "conjugate transpose": lambda z: z.mT.conj(),
    "negative, of real numbers": lambda z: z.conj().imag,
    "negative": torch._neg_view,
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_that_are_not_worked_out_yet(view: str) -> None:
    z = VIEWS[view](torch.randn(6, 4, 4, dtype=torch.complex64))
    assert z.is_conj() or z.is_neg()
    first = Fingerprint(z)
    assert not first.differs(Fingerprint(z.resolve_conj().resolve_neg()))
    assert first.differs(Fingerprint(z.clone().index_fill_(0, torch.tensor([3]), 1)))
    assert first.differs(Fingerprint(-z)) and (not z.is_complex() or first.differs(Fingerprint(z.conj())))


@pytest.mark.parametrize("edition", [Cached(2), Accumulated(Cached(2), 2), Checkpointed(Split())], ids=repr)
@pytest.mark.parametrize("view", VIEWS)
def test_a_second_pass_of_such_a_view(edition: Edition, view: str) -> None:
    def load() -> Workload:
        trunk = nn.Linear(4, 4, dtype=torch.complex128)
        tasks = {"a": lambda z, x: (z.abs() + z.real).mean(), "b": lambda z, x: z.abs().square().mean()}
        x = torch.randn(6, 4, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
        return Workload(lambda x: VIEWS[view](trunk(x)), tasks, x, nn.ModuleList([trunk]))

    assert_same_gradient(edition, load, bound=1e-12)


def test_channels_last_is_not_copied() -> None:
    z = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    assert not Fingerprint(z).differs(Fingerprint(z.clone(memory_format=torch.preserve_format)))
