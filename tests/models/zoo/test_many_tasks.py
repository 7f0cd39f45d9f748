"""Many tasks: their targets, and the same gradient under every edition."""

from __future__ import annotations

import pytest
import torch

from mtl_accum import Split
from mtl_accum.models import many_tasks
from mtl_accum.models.zoo._many_tasks import Is
from mtl_accum.testing import Workload, assert_same_gradient


def test_a_target_is_one_against_the_rest() -> None:
    assert Is("digit", 3)({"digit": torch.tensor([3, 1, 3])}).tolist() == [[1.0], [0.0], [1.0]]


def test_classifiers_and_dense_heads_in_turns() -> None:
    names = list(many_tasks(23).tasks)
    assert names[:4] == ["is it a 0 (0)", "clean 1", "is it a 1 (2)", "clean 3"]
    assert names[-1] == "is it a 1 (22)"
    assert len(names) == 23


def test_the_gradient_is_the_same() -> None:
    def make() -> Workload:
        torch.manual_seed(0)
        model = many_tasks(5, width=8, depth=2, head_depth=1)
        image = torch.randn(6, 1, 8, 8)
        batch = {"image": image, "clean": image + 1, "digit": torch.randint(0, 10, (6,))}
        return Workload(model.trunk, dict(model.tasks), batch, torch.nn.ModuleList([model]))

    assert_same_gradient(Split(), make)


def test_invalid_numbers_of_tasks() -> None:
    with pytest.raises(ValueError, match="num_tasks must be a positive integer, found 0"):
        many_tasks(0)
