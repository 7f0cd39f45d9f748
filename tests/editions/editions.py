"""The editions that every mistake is tried on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from mtl_accum import Accumulated, AsLoss, Cached, Checkpointed, Offloaded, OverBatches, PerTask, Split, SummedLoss

__all__ = ["ALL", "IN_PIECES", "Windowed", "every_edition", "in_pieces"]


class Windowed:
    """OverBatches, handed its batch twice, as the other editions are handed theirs."""

    def __repr__(self) -> str:
        return "OverBatches(Split())"

    def forward_backward(
        self, trunk: Callable[..., Any], tasks: dict[str, Any] | nn.Module, batch: dict[str, Tensor]
    ) -> dict[str, Tensor] | None:
        return OverBatches(Split()).forward_backward(trunk, tasks, [batch, batch])


IN_PIECES = [Cached(2), Split(head_chunks=2), Accumulated(Split(), 2), Checkpointed(Cached(2)), Offloaded(Cached(2))]
LOSSES = [AsLoss(Split()), AsLoss(SummedLoss(), each=True)]
LOSSES_IN_PIECES = [AsLoss(Cached(2)), AsLoss(Split(head_chunks=2), each=True), AsLoss(Accumulated(Split(), 2))]
IN_PIECES += LOSSES_IN_PIECES
ALL = [SummedLoss(), PerTask(), Split(), Windowed(), *LOSSES, *IN_PIECES]
every_edition = pytest.mark.parametrize("edition", ALL, ids=repr)
in_pieces = pytest.mark.parametrize("edition", IN_PIECES, ids=repr)
