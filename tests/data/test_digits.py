"""Digits: real scans, a fixed split, seeded noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_accum.data import Digits


def test_batches() -> None:
    data = Digits(batch_size=100, noise=0.1)
    batches = list(data.train())
    assert {name: (tuple(t.shape), t.dtype) for name, t in batches[0].items()} == {
        "image": ((100, 1, 8, 8), torch.float32),
        "clean": ((100, 1, 8, 8), torch.float32),
        "digit": ((100,), torch.int64),
    }
    clean = torch.cat([batch["clean"] for batch in batches])
    assert (clean.min(), clean.max()) == (0, 1)  # type: ignore[comparison-overlap]
    noise = torch.cat([batch["image"] for batch in batches]) - clean
    assert noise.std().item() == pytest.approx(0.1, rel=0.02)
    assert len(clean) + sum(len(batch["digit"]) for batch in data.test()) == 1797


def test_split_does_not_depend_on_the_seed_and_shares_no_scan() -> None:
    tests = [torch.cat([batch["clean"] for batch in Digits(seed=seed).test()]) for seed in (0, 1)]
    assert torch.equal(*tests)
    train = {tuple(image.flatten().tolist()) for batch in Digits().train() for image in batch["clean"]}
    shared = sum(tuple(image.flatten().tolist()) in train for image in tests[0])
    assert shared <= 5  # a few of the 1,797 scans are the same to the pixel


def test_order_and_test_noise_follow_the_seed() -> None:
    def first(seed: int, part: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return next(iter(getattr(Digits(seed=seed), part)()))

    assert torch.equal(first(0, "train")["image"], first(0, "train")["image"])
    assert not torch.equal(first(0, "train")["digit"], first(1, "train")["digit"])
    assert torch.equal(first(0, "test")["image"], first(0, "test")["image"])
    assert not torch.equal(first(0, "test")["image"], first(1, "test")["image"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, found 0"),
        ({"batch_size": "abc"}, "batch_size must be a positive integer, found 'abc'"),
        ({"batch_size": True}, "batch_size must be a positive integer, found True"),
        ({"noise": -1}, "noise must be a number of at least 0, found -1"),
        ({"test_fraction": 1.0}, "test_fraction must be a number between 0 and 1, found 1.0"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Digits(**change)
