"""Every edition in every situation: exact, or refused for a reason of the design's list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mtl_accum import Accumulated, Cached, Edition, Split
from mtl_accum.testing import MATRIX, SITUATIONS, Situation, assert_same_gradient, refusal, run_edition, vector
from mtl_accum.verify import in_pieces, oracle
from tests.odd_edition import HalvedHeads

# Dynamo looks at .grad of what a compiled head is given, which under SummedLoss is no leaf.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

EDITIONS = [*MATRIX, HalvedHeads()]  # the last one from outside of the package


def check_cell(edition: Edition, situation: Situation, dtype: torch.dtype) -> None:
    """Raise AssertionError unless the cell is as it must be."""
    why = refusal(edition, situation)
    if why is not None:
        with pytest.raises(ValueError, match=why):
            run_edition(edition, situation.make(dtype))
        return
    assert_same_gradient(edition, lambda: situation.make(dtype), oracle=oracle(edition) if situation.random else None)


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
def test_cell(edition: Edition, name: str) -> None:
    check_cell(edition, SITUATIONS[name], torch.float64)


# The same code within a wider bound, so two situations are quick.
QUICK = {"dropout in trunk and heads", "no random numbers"}
IN_FLOAT32 = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SITUATIONS]


@pytest.mark.parametrize("name", IN_FLOAT32)
@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
def test_cell_in_float32(edition: Any, name: Any) -> None:
    check_cell(edition, SITUATIONS[name], torch.float32)


@pytest.mark.parametrize("edition", [edition for edition in EDITIONS if in_pieces(edition)], ids=repr)
def test_the_oracle_itself_is_the_whole_batch_where_nothing_is_random(edition: Edition) -> None:
    for name in ("no random numbers", "ignored labels", "missing values", "absent: no count"):
        load = SITUATIONS[name].make(torch.float64)
        assert_same_gradient(oracle(edition), lambda load=load: load)  # type: ignore[misc]


def test_statistics_of_pieces_on_request() -> None:
    situation = SITUATIONS["BatchNorm in the trunk"]
    for edition in (
        Cached(chunk_size=4, allow_batch_statistics=True),
        Accumulated(Split(), micro_batches=2, allow_batch_statistics=True),
    ):
        assert_same_gradient(edition, lambda: situation.make(torch.float64), oracle=oracle(edition))


ENGINE = "mtl_accum.editions._engine"
MUTATIONS = {
    "replay without random state": ("mtl_accum._state._rng.RngState.restore", lambda self, present=None: None),
    "replay without buffers": (f"{ENGINE}.replay._replay.Replay._swap", lambda self: None),
    "dL/dz of pieces not accumulated": (
        "mtl_accum.editions._engine._leaves._Leaf.add",
        lambda self, gradient, samples: None,
    ),
}


def red_cells() -> Iterator[str]:
    for edition in EDITIONS:
        for name, situation in SITUATIONS.items():
            if situation.group == "composition":
                continue
            try:
                check_cell(edition, situation, torch.float64)
            except (AssertionError, RuntimeError, TypeError):
                yield f"{edition!r}: {name}"


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_matrix_bites(monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    monkeypatch.setattr(*MUTATIONS[mutation])
    assert next(red_cells(), None)


def test_the_matrix_bites_when_pieces_weigh_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_of_n(task: Any, counts: Any, samples: Any, whole: Any) -> Any:
        return 1 / -(-(whole[1] - whole[0]) // (samples[1] - samples[0]))

    monkeypatch.setattr(f"{ENGINE}.batch._counted_batch.share_of", one_of_n)
    assert next(red_cells(), None)


def test_the_matrix_bites_when_an_opaque_container_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import _pytree

    monkeypatch.setattr(f"{ENGINE}._leaves.flatten", lambda tree, what: ([tree], _pytree.tree_structure(None)))
    assert next(red_cells(), None)


def test_the_matrix_bites_when_leaves_are_not_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """dL/dz of the last head alone."""
    from mtl_accum.editions._cut import Leaves  # type: ignore[attr-defined]

    init = Leaves.__init__

    def forgetful(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        for leaf in filter(None, self._leaves):
            leaf.tensor.register_hook(lambda g, leaf=leaf: setattr(leaf.tensor, "grad", None))

    monkeypatch.setattr(Leaves, "__init__", forgetful)
    with pytest.raises(AssertionError):
        assert_same_gradient(Split(), vector)
