"""Pieces of a batch, and representations assembled from the representations of pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtl_accum.editions._engine._edition import Edition
from mtl_accum.editions._engine.batch._cutting import Range, cutter, samples_of, take
from mtl_accum.editions._engine.batch._pytree import TreeSpec, flatten, unflatten

__all__ = [
    "Assembly",
    "Piece",
    "Range",
    "cut_batch",
    "equal_ranges",
    "graph_of",
    "inner_pieces",
    "ranges",
    "samples_of",
    "take",
]


class Piece(NamedTuple):
    """A slice of a batch; `samples` is None for a batch that is not cut."""

    samples: Range | None
    batch: Any


def ranges(samples: int, size: int) -> list[Range]:
    """Divide samples into slices of a size; the last one may be shorter."""
    return [(start, min(start + size, samples)) for start in range(0, samples, size)]


def equal_ranges(samples: int, pieces: int) -> list[Range]:
    """Divide samples into at most a number of slices of one size; the last one may be shorter."""
    return ranges(samples, max(1, -(-samples // pieces)))


def inner_pieces(pieces: Sequence[Piece], edition: Edition | None) -> list[Piece]:
    """Cut pieces of a batch as the edition does that runs them; into nothing without one."""
    inner: list[Piece] = []
    if edition is None:
        return inner
    for samples, batch in pieces:
        if samples is not None:
            start, stop = samples
            for first, last in edition.cuts(stop - start):
                inner.append(Piece((start + first, start + last), take(batch, (first, last))))
    return inner


def cut_batch(batch: Any, cuts: list[Range]) -> list[Piece]:
    """Cut a batch into pieces that cover it; tensors become views.

    Raises:
        TypeError: See `cutter`.
        ValueError: There is no sample, or what `cutter` raises.
    """
    if not cuts:
        raise ValueError(
            "batch: to be cut, expected at least one sample, found none; leave empty batches out (the mean of a loss "
            "over nothing is NaN)"
        )
    piece = cutter(batch, "batch", cuts[-1][1])
    return [Piece(samples, piece(samples)) for samples in cuts]


class Assembly:
    """A container filled along dimension 0, piece by piece; the first piece allocates it.

    Args:
        samples: Number of samples of the whole.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._values: list[Any] = []
        self._spec: TreeSpec | None = None
        self._graphs: dict[
            int, list[tuple[Range, Tensor]]
        ] = {}  # by value: slices and stand-ins for pieces with a graph

    def add(self, piece: Piece, tree: Any) -> None:
        """Fill in the representation of one piece.

        Raises:
            ValueError: A tensor has other than the piece's samples in dimension 0, or a value that is no tensor differs
                between pieces.
        """
        start, stop = piece.samples or (0, self._samples)
        cutter(tree, "representation", stop - start, of_batch=False)  # raises for another number of samples
        values, spec = flatten(tree, "representation")
        if self._spec is None:
            self._values = [_room(value, self._samples) if isinstance(value, Tensor) else value for value in values]
            self._spec = spec
        for index, (whole, value) in enumerate(zip(self._values, values, strict=True)):
            if isinstance(value, Tensor):
                whole[start:stop] = value.detach()
                if value.requires_grad:
                    self._graphs.setdefault(index, []).append(((start, stop), graph_of(value)))
            elif whole != value:
                raise ValueError(f"representation: {whole!r} in one piece and {value!r} in another; make it a tensor")

    def whole(self) -> Any:
        """Return the container, after every piece was added."""
        assert self._spec is not None
        for index, graphs in self._graphs.items():
            ranges, pieces = zip(*graphs, strict=True)
            self._values[index] = _Joined.apply(self._values[index], ranges, *pieces)  # type: ignore[no-untyped-call]
        return unflatten(self._values, self._spec)


def graph_of(value: Tensor) -> Tensor:
    """Return a stand-in for a tensor whose values are not needed any more: its shape and its graph."""
    graph: Tensor = _Placed.apply(value)  # type: ignore[no-untyped-call]
    return graph


class _Placed(torch.autograd.Function):
    """A shape and a graph without the memory of the values."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        """Return zeros of that shape, in the memory of one number."""
        return value.new_zeros(()).expand(value.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient."""
        return gradients[0]


class _Joined(torch.autograd.Function):
    """`torch.cat` of pieces that are slices of the result already, so the whole never exists twice."""

    generate_vmap_rule = True

    @staticmethod
    def forward(whole: Tensor, ranges: tuple[Range, ...], *pieces: Tensor) -> Tensor:
        """Return the whole."""
        return whole.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the slices of the pieces."""
        ctx.ranges = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return every piece's slice of the gradient."""
        (gradient,) = gradients
        return None, None, *(gradient[slice(*samples)] for samples in ctx.ranges)


def _room(value: Tensor, samples: int) -> Tensor:
    channels_last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last and not value.is_contiguous() else torch.contiguous_format
    return torch.empty((samples, *value.shape[1:]), dtype=value.dtype, device=value.device, memory_format=layout)
