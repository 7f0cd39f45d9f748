"""Two numbers a row: a changed sample shows, rounding does not."""

from __future__ import annotations

import pytest
import torch

from mtl_accum.editions._fingerprint import Fingerprint


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64], ids=str
)
def test_one_changed_sample_shows_and_rounding_does_not(dtype):
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


def test_of_odd_leaves():
    tree = (torch.arange(6), torch.tensor([True, False]), torch.tensor(2.0), 3, "a", None, torch.empty(0, 3))
    assert not Fingerprint(tree).differs(Fingerprint(tree))
    assert Fingerprint(tree).differs(Fingerprint((torch.arange(6) + 1, *tree[1:])))
    assert Fingerprint(tree).differs(Fingerprint((*tree[:3], 4, *tree[4:])))
    assert Fingerprint(torch.ones(2)).differs(Fingerprint(torch.ones(3)))
    nan = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    assert not Fingerprint(nan).differs(Fingerprint(nan.clone()))
    assert Fingerprint(nan).differs(Fingerprint(nan.nan_to_num()))


def test_channels_last_is_not_copied():
    z = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    assert not Fingerprint(z).differs(Fingerprint(z.clone(memory_format=torch.preserve_format)))
