"""Cutting batches along the samples, and putting representations together again."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtl_accum.editions._pytree import TreeSpec, flatten, flatten_with_paths, unflatten

__all__ = ["Assembly", "Piece", "Range", "cut_batch", "equal_ranges", "ranges", "samples_of", "take"]

Range = tuple[int, int]  # the samples from the first number to the second, which is excluded


class Piece(NamedTuple):
    """Some samples of a batch; `samples` is None for a batch that is not cut."""

    samples: Range | None
    batch: Any


def ranges(samples: int, size: int) -> list[Range]:
    """Pieces of that size; the last one may be shorter."""
    return [(start, min(start + size, samples)) for start in range(0, samples, size)]


def equal_ranges(samples: int, pieces: int) -> list[Range]:
    """At most that many pieces of one size, the last one shorter where it does not divide the samples."""
    return ranges(samples, max(1, -(-samples // pieces)))


def cut_batch(batch: Any, cuts: list[Range]) -> list[Piece]:
    """Views of a batch's slices along dimension 0; what is no tensor goes into each of them."""
    return [Piece(samples, take(batch, samples)) for samples in cuts]


def take(tree: Any, samples: Range) -> Any:
    """The samples of every tensor in a container, as views."""
    values, spec = flatten(tree, "batch")
    return unflatten([value[slice(*samples)] if isinstance(value, Tensor) else value for value in values], spec)


def samples_of(tree: Any, what: str) -> int:
    """The size of dimension 0, which all tensors in a container must share.

    Raises:
        TypeError: the container is unknown.
        ValueError: there is no tensor, or one has another size there; names it.
    """
    values, _ = flatten(tree, what)
    sizes = {value.shape[:1] for value in values if isinstance(value, Tensor)}
    if len(sizes) == 1 and (size := sizes.pop()):
        return size[0]
    tensors = [(path, value) for path, value in flatten_with_paths(tree, what) if isinstance(value, Tensor)]
    if not tensors:
        raise ValueError(f"{what}: to be cut, expected a tensor with the samples in dimension 0, found no tensor")
    like_path, like = next(((path, value) for path, value in tensors if value.dim()), tensors[0])
    path, odd = next((path, value) for path, value in tensors if not value.dim() or len(value) != len(like))
    expected = f"{len(like)} samples in dimension 0, as {like_path} has" if like.dim() else "the samples in dimension 0"
    raise ValueError(
        f"{path}: to be cut, expected {expected}; found shape {tuple(odd.shape)}. Expand it to one entry a sample, "
        "or hand over what all samples share by another way than the batch"
    )


class Assembly:
    """A container put together along dimension 0, piece by piece; room for all is made with the first one.

    Args:
        samples: of the whole.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._values: list[Any] = []
        self._spec: TreeSpec | None = None

    def add(self, piece: Piece, tree: Any) -> None:
        """Fill in the representation of one piece.

        Raises:
            ValueError: a tensor has not the piece's samples in dimension 0, or what is no tensor has changed.
        """
        start, stop = piece.samples or (0, self._samples)
        found = samples_of(tree, "representation")
        if found != stop - start:
            raise ValueError(
                f"representation: to be put together, expected the {stop - start} samples of its piece in dimension 0 "
                f"of every tensor, found {found}"
            )
        values, spec = flatten(tree, "representation")
        if self._spec is None:
            self._values = [_room(value, self._samples) if isinstance(value, Tensor) else value for value in values]
            self._spec = spec
        for whole, value in zip(self._values, values, strict=True):
            if isinstance(value, Tensor):
                whole[start:stop] = value.detach()
            elif whole != value:
                raise ValueError(f"representation: {whole!r} in one piece and {value!r} in another; make it a tensor")

    def whole(self) -> Any:
        """The container, once every piece is in."""
        assert self._spec is not None
        return unflatten(self._values, self._spec)


def _room(value: Tensor, samples: int) -> Tensor:
    channels_last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last and not value.is_contiguous() else torch.contiguous_format
    return torch.empty((samples, *value.shape[1:]), dtype=value.dtype, device=value.device, memory_format=layout)
