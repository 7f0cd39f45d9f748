"""Changes of a configuration since a checkpoint: which are refused, and what an absent key means."""

from __future__ import annotations

from typing import Any

import pytest

from mtl_accum.training.checkpoint._changes import changes

DIGITS = {"_target_": "mtl_accum.data.Digits", "batch_size": 8}
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 0.1}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({"precision": "bf16"}, {"precision": "bf16"}, []),
        ({"precision": "bf16"}, {"precision": "fp32"}, ["precision was 'bf16', is 'fp32'"]),
        # Settings of the loop.
        ({}, {"precision": "fp32"}, []),
        ({}, {"precision": "bf16"}, ["precision was 'fp32', is 'bf16'"]),
        ({"accumulate": 4}, {}, ["accumulate was 4, is 1"]),
        # Arguments of what a configuration builds.
        ({"data": DIGITS}, {"data": {**DIGITS, "validation_fraction": 0.0}}, []),
        (
            {"data": DIGITS},
            {"data": {**DIGITS, "validation_fraction": 0.2}},
            ["data.validation_fraction was 0.0, is 0.2"],
        ),
        ({"optimizer": {**ADAMW, "weight_decay": 0.01}}, {"optimizer": ADAMW}, []),
        (
            {"optimizer": {**ADAMW, "weight_decay": 0.5}},
            {"optimizer": ADAMW},
            ["optimizer.weight_decay was 0.5, is 0.01"],
        ),
        (
            {"optimizer": {"lr": 0.1}},
            {"optimizer": ADAMW},
            ["optimizer._target_ was 'nothing', is 'torch.optim.AdamW'"],
        ),
        ({"data": DIGITS}, {"data": {**DIGITS, "mine": 1}}, ["data.mine was 'nothing', is 1"]),
        (
            {"data": {"_target_": "no_such_package.Data"}},
            {"data": {"_target_": "no_such_package.Data", "a": 1}},
            ["data.a was 'nothing', is 1"],
        ),
        # Empty mappings are values.
        ({"x": {}}, {"x": {}}, []),
        ({"x": {}}, {"x": {"a": 1}}, ["x was {}, is 'nothing'", "x.a was 'nothing', is 1"]),
        # What may differ.
        ({"epochs": 3, "data": {**DIGITS, "num_workers": 1}}, {"epochs": 9, "data": {**DIGITS, "num_workers": 0}}, []),
        ({"measures": {}}, {"measures": {"a": 1}, "logger": None, "checkpoint": {"keep": 9}}, []),
    ],
)
def test_changes(before: Any, now: Any, expected: Any) -> None:
    assert changes(before, now) == expected
