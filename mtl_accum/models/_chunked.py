"""Loss in chunks of tokens or pixels, with the gradient of each chunk computed in the forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mtl_accum._validate import positive_int, require_callables
from mtl_accum.editions._engine import Scale, eager, expected_scale, expecting, explain, factor_of, wide
from mtl_accum.models._chunk_gradients import ChunkGradients
from mtl_accum.models._require_sum import require_sum

__all__ = ["Chunked", "chunked"]


def chunked(
    head_and_loss: Callable[..., Tensor], chunks: int, *, dim: int = 0, scale: Scale | None = None
) -> Callable[..., Tensor]:
    """Return a function that computes a summed loss and its gradient chunk by chunk.

    For heads with a large output: the logits of a vocabulary, the maps of an image. One chunk of the output exists at a
    time, and nothing is computed twice::

        summed = chunked(lambda z, y: F.cross_entropy(words(z), y, reduction="sum"), 8)
        loss = summed(z, labels) / (labels != -100).sum()  # an ordinary loss

    Equals `head_and_loss` on the whole tensors if that is a sum over the entries of `dim`. The result is a 0-dim loss
    whose gradient is attached to the inputs and to every parameter that was used, as for `fold`; the notes on `fold`
    apply here too. Dropout in the function draws different, equally valid masks than on the whole tensors.

    Memory: one chunk's graph, dL/d(inputs), and one gradient of each parameter, for any number of chunks. Gradients of
    16-bit parameters are summed in float32. Two cases need less memory than autograd: a linear layer whose weight is
    larger than its output multiplies its gradient directly into the sum, and the gradient of
    `F.cross_entropy(..., reduction="sum")` of float32 logits is computed in a single tensor. Passes: one forward, one
    backward; under `torch.no_grad()` one forward, chunk by chunk.

    The first call checks that the function is a sum: a mean would silently give a loss that is `chunks` times too
    large. For this it runs the function a few times on some rows, without gradients, and restores the random state.

    Args:
        head_and_loss: Function from slices of the inputs to a 0-dim loss that is a sum over them. Values that chunks
            share, such as class weights, belong in its closure.
        chunks: Number of chunks, of equal size up to one row; fewer if there are fewer rows.
        dim: Dimension along which every input is cut.
        scale: Factor of the sum in the backward, for heads in fp16: a number, a 0-dim tensor or a callable, e.g.
            `lambda: scaler.get_scale() / count` if the sum is divided by a count. By default the scale of the edition
            or `fold` in which the call happens.

    Returns:
        Function of one or more tensors.

    Raises:
        TypeError: head_and_loss cannot be called or scale is not a number; in a call, an input or the loss is not a
            tensor.
        ValueError: chunks is less than 1; in a call, the inputs differ in length along `dim`, the function is not a sum
            over the rows, or a module in it uses batch statistics.
        RuntimeError: In a call, for the same reasons as in `fold`.
    """
    require_callables(head_and_loss=head_and_loss)
    positive_int("chunks", chunks)
    return Chunked(head_and_loss, chunks, dim, scale)


@dataclass(frozen=True)
class Chunked:
    """Function that computes a summed loss chunk by chunk; see `chunked`.

    Args:
        function: Sum over the rows of its inputs.
        chunks: Number of chunks.
        dim: Dimension along which the inputs are cut.
        scale: Factor of the sum in the backward.
        trusted: Whether the function is known to be a sum.
    """

    function: Callable[..., Tensor]
    chunks: int
    dim: int = 0
    scale: Scale | None = None
    trusted: bool = False

    @eager
    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the sum over all chunks, 0-dim."""
        ranges = _balanced(self._rows(inputs), self.chunks)
        if len(ranges) > 1 and not self.trusted:
            require_sum(self._who, self.function, inputs, self.dim, most=ranges[0][1])
        scale = self._factor()
        gradients = ChunkGradients(inputs, self.dim, scale, self._who)
        try:
            with expecting(scale):
                total = _sum(gradients.take(self.function, *chunk) for chunk in ranges)
        except RuntimeError as error:
            _explain(error, self._who)
            raise
        return gradients.attach(total)

    @property
    def _who(self) -> str:
        return f"chunked: {getattr(self.function, '__name__', type(self.function).__name__)}"

    def _factor(self) -> float | Tensor | None:
        if not torch.is_grad_enabled():
            return None
        return expected_scale() if self.scale is None else factor_of(self.scale)

    def _rows(self, inputs: tuple[Any, ...]) -> int:
        if not inputs:
            raise TypeError(f"{self._who}: expected at least one tensor to cut, found none")
        for index, x in enumerate(inputs):
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"{self._who}: input {index} must be a tensor, which is cut along dimension {self.dim}; found "
                    f"{type(x).__name__}. Values that all chunks share belong in the closure of the function"
                )
            if not -x.dim() <= self.dim < x.dim():
                raise ValueError(f"{self._who}: input {index} must have a dimension {self.dim}, found {_shape(x)}")
        if len({x.shape[self.dim] for x in inputs}) > 1:
            shapes = ", ".join(map(_shape, inputs))
            raise ValueError(
                f"{self._who}: inputs must be equally long along dimension {self.dim}, where they are cut; found "
                f"{shapes}. Values that all chunks share belong in the closure of the function"
            )
        return int(inputs[0].shape[self.dim])


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def _balanced(rows: int, chunks: int) -> list[tuple[int, int]]:
    """Return start and length of each chunk. Ranks with slightly different rows have the same number of chunks."""
    number = max(1, min(rows, chunks))
    ends = [rows * index // number for index in range(number + 1)]
    return [(start, end - start) for start, end in pairwise(ends)]


def _sum(values: Iterable[Tensor]) -> Tensor:
    """Return the sum of losses, accumulated in float32 or wider."""
    first, *others = values
    return sum(others, first.to(wide(first.dtype))).to(first.dtype)


def _explain(error: RuntimeError, who: str) -> None:
    if "backward through the graph a second time" in str(error):
        raise RuntimeError(
            f"{who}: it reads a tensor that was computed outside of it, whose graph the first chunk has used up; "
            "compute that tensor inside the function, make it an input, or multiply the result of chunked by it "
            f"({error})"
        ) from error
    explain(error, who)
