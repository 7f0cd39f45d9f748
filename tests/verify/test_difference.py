"""The one figure for the difference of two gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_accum.verify._difference import gradient_difference

ONES = torch.ones(4)  # norm 2


@pytest.mark.parametrize(
    ("found", "reference", "expected"),
    [
        ({"a": ONES}, {"a": ONES}, 0.0),
        ({"a": 1.5 * ONES}, {"a": ONES}, 0.5),
        ({"a": ONES, "b": 1.1 * ONES}, {"a": ONES, "b": ONES}, 0.1),
        ({"a": None}, {"a": None}, 0.0),
        ({"a": None, "b": ONES}, {"a": ONES, "b": ONES}, math.inf),
        ({"a": ONES, "b": ONES}, {"a": None, "b": ONES}, math.inf),
        ({"a": math.nan * ONES}, {"a": ONES}, math.inf),
        ({"a": 0 * ONES}, {"a": 0 * ONES}, 0.0),
        ({"a": ONES}, {"a": 0 * ONES}, math.inf),
    ],
)
def test_values(found: dict[str, Any], reference: dict[str, Tensor], expected: float) -> None:
    assert gradient_difference(found, reference) == pytest.approx(expected, rel=1e-6)


def test_a_gradient_that_is_zero_but_for_rounding_counts_against_the_whole() -> None:
    reference = {"big": 1e6 * ONES, "key bias": 0 * ONES}
    assert gradient_difference({"big": 1e6 * ONES, "key bias": 1e-3 * ONES}, reference) == pytest.approx(1e-6)


def test_names_must_agree() -> None:
    with pytest.raises(ValueError, match=r"found \['b'\] on one side only"):
        gradient_difference({"a": ONES}, {"a": ONES, "b": ONES})
