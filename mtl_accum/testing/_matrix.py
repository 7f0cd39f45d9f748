"""The exactness matrix: its editions, and where each must refuse a situation."""

from __future__ import annotations

from mtl_accum.editions import (
    Accumulated,
    AsLoss,
    Cached,
    Checkpointed,
    Edition,
    Offloaded,
    PerTask,
    Split,
    SummedLoss,
)
from mtl_accum.testing._workloads import SAMPLES
from mtl_accum.testing.situations import SITUATIONS, Situation

__all__ = ["MATRIX", "refusal"]

MATRIX: list[Edition] = [
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
]


def _inner(edition: Edition) -> Edition:
    """Unwrap the edition that decides what is cut."""
    if isinstance(edition, AsLoss | Checkpointed | Offloaded) and edition.inner is not None:
        return _inner(edition.inner)
    return edition


def _cuts_trunk(edition: Edition) -> bool:
    edition = _inner(edition)
    return isinstance(edition, Accumulated) or (isinstance(edition, Cached) and edition.chunk_size < SAMPLES)


def _cuts_heads(edition: Edition) -> bool:
    return len(edition.cuts(SAMPLES)) > 1


def refusal(edition: Edition, situation: Situation) -> str | None:
    """Return a pattern of the message with which an edition must refuse a situation; None where it must be exact.

    Args:
        edition: Row of the matrix.
        situation: Column of the matrix.
    """
    if situation.coupled and _cuts_heads(edition):
        return "task 'contrastive' declares couples_samples=True"
    cut = {"trunk": _cuts_trunk(edition), "heads": _cuts_heads(edition), "": False}[situation.statistics]
    if situation is SITUATIONS["spectral norm"]:
        return r"\(_SpectralNorm\) has spectral normalisation.*every piece" if cut else None
    return r"\(BatchNorm1d\) uses batch statistics.*to_group_norm\(module\)" if cut else None
