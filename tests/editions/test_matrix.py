"""Every edition in every situation: exact, or refused for a reason of the design's list."""

from __future__ import annotations

import pytest
import torch

from mtl_accum import Accumulated, AsLoss, Cached, Checkpointed, Offloaded, PerTask, Split, SummedLoss
from mtl_accum.verify._oracle import in_pieces, oracle
from tests.asserts import assert_same_gradient, run
from tests.odd_edition import HalvedHeads
from tests.situations import SITUATIONS, Situation, vector
from tests.workloads import SAMPLES

# Dynamo looks at .grad of what a compiled head is given, which under SummedLoss is no leaf.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

EDITIONS = [
    PerTask(),
    Split(),
    Split(order="reverse"),
    Split(heads_per_graph=2),
    Split(head_chunks=3),
    Split(heads_per_graph=2, head_chunks=3),
    Cached(chunk_size=3),
    Cached(chunk_size=100),
    Cached(chunk_size=2, head_chunks=2),
    Accumulated(SummedLoss(), micro_batches=3),
    Accumulated(PerTask(), micro_batches=100),
    Accumulated(Split(order="reverse"), micro_batches=2),
    Accumulated(Cached(chunk_size=2, head_chunks=2), micro_batches=2),
    Accumulated(Accumulated(Split(head_chunks=2), micro_batches=2), micro_batches=2),
    Checkpointed(PerTask()),
    Checkpointed(Cached(chunk_size=3, head_chunks=2)),
    Offloaded(Split()),
    Offloaded(Checkpointed(Accumulated(Split(head_chunks=2), micro_batches=2))),
    AsLoss(SummedLoss()),
    AsLoss(Split()),
    AsLoss(Split(heads_per_graph=2)),
    AsLoss(Split(head_chunks=3)),
    AsLoss(Split(order="reverse"), each=True),
    AsLoss(Split(head_chunks=2), each=True),
    AsLoss(Cached(chunk_size=3)),
    AsLoss(Cached(chunk_size=2, head_chunks=2), each=True),
    AsLoss(Accumulated(SummedLoss(), micro_batches=3)),
    AsLoss(Accumulated(Cached(chunk_size=2, head_chunks=2), micro_batches=2)),
    AsLoss(Checkpointed(Split())),
    AsLoss(Offloaded(Checkpointed(Accumulated(Split(head_chunks=2), micro_batches=2))), each=True),
    HalvedHeads(),  # from outside of the package
]


def inner(edition):
    """The edition that decides what is cut."""
    return inner(edition.edition) if isinstance(edition, AsLoss | Checkpointed | Offloaded) else edition


def cuts_trunk(edition) -> bool:
    edition = inner(edition)
    return isinstance(edition, Accumulated) or (isinstance(edition, Cached) and edition.chunk_size < SAMPLES)


def cuts_heads(edition) -> bool:
    return len(edition.cuts(SAMPLES)) > 1


def refusal(edition, situation: Situation) -> str | None:
    """Why this cell must refuse, as the message says it; None where it must be exact."""
    if situation.coupled and cuts_heads(edition):
        return "task 'contrastive' declares couples_samples=True"
    cut = {"trunk": cuts_trunk(edition), "heads": cuts_heads(edition), "": False}[situation.statistics]
    if situation is SITUATIONS["spectral norm"]:
        return r"\(_SpectralNorm\) has spectral normalisation.*every piece" if cut else None
    return r"\(BatchNorm1d\) uses batch statistics.*to_group_norm\(module\)" if cut else None


def check_cell(edition, situation: Situation, dtype: torch.dtype) -> None:
    """Raise AssertionError unless the cell is as it must be."""
    why = refusal(edition, situation)
    if why is not None:
        with pytest.raises(ValueError, match=why):
            run(edition, situation.make(dtype))
        return
    assert_same_gradient(edition, lambda: situation.make(dtype), oracle=oracle(edition) if situation.random else None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
def test_cell(edition, name, dtype):
    check_cell(edition, SITUATIONS[name], dtype)


@pytest.mark.parametrize("edition", [edition for edition in EDITIONS if in_pieces(edition)], ids=repr)
def test_the_oracle_itself_is_the_whole_batch_where_nothing_is_random(edition):
    for name in ("no random numbers", "ignored labels", "missing values", "absent: no count"):
        load = SITUATIONS[name].make(torch.float64)
        assert_same_gradient(oracle(edition), lambda load=load: load)


def test_statistics_of_pieces_on_request():
    situation = SITUATIONS["BatchNorm in the trunk"]
    for edition in (
        Cached(chunk_size=4, allow_batch_statistics=True),
        Accumulated(Split(), micro_batches=2, allow_batch_statistics=True),
    ):
        assert_same_gradient(edition, lambda: situation.make(torch.float64), oracle=oracle(edition))


ENGINE = "mtl_accum.editions._engine"
MUTATIONS = {
    "replay without random state": ("mtl_accum._state._rng.RandomState.restore", lambda self: None),
    "replay without buffers": (f"{ENGINE}.replay._replay.Replay._swap", lambda self: None),
    "dL/dz of pieces not accumulated": (
        "mtl_accum.editions._engine._leaves._Leaf.add",
        lambda self, gradient, samples: None,
    ),
}


def red_cells() -> list[str]:
    red = []
    for edition in EDITIONS:
        for name, situation in SITUATIONS.items():
            if situation.group == "composition":
                continue
            try:
                check_cell(edition, situation, torch.float64)
            except (AssertionError, RuntimeError, TypeError):
                red.append(f"{edition!r}: {name}")
    return red


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_matrix_bites(monkeypatch, mutation):
    monkeypatch.setattr(*MUTATIONS[mutation])
    assert red_cells()


def test_the_matrix_bites_when_pieces_weigh_the_same(monkeypatch):
    def one_of_n(task, counts, samples, whole):
        return 1 / -(-(whole[1] - whole[0]) // (samples[1] - samples[0]))

    monkeypatch.setattr(f"{ENGINE}.batch._counted_batch.share_of", one_of_n)
    assert red_cells()


def test_the_matrix_bites_when_an_opaque_container_passes(monkeypatch):
    from torch.utils import _pytree

    monkeypatch.setattr(f"{ENGINE}._leaves.flatten", lambda tree, what: ([tree], _pytree.tree_structure(None)))
    assert red_cells()


def test_the_matrix_bites_when_leaves_are_not_summed(monkeypatch):
    """dL/dz of the last head alone."""
    from mtl_accum.editions._cut import Leaves

    init = Leaves.__init__

    def forgetful(self, *args, **kwargs):
        init(self, *args, **kwargs)
        for leaf in filter(None, self._leaves):
            leaf.tensor.register_hook(lambda g, leaf=leaf: setattr(leaf.tensor, "grad", None))

    monkeypatch.setattr(Leaves, "__init__", forgetful)
    with pytest.raises(AssertionError):
        assert_same_gradient(Split(), vector)
