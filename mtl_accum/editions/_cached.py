"""Gradient caching: the trunk in chunks without a graph, then again with one; memory below a single trunk pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from mtl_accum._validate import boolean, positive_int
from mtl_accum.editions._engine import (
    Assembly,
    Beginning,
    Form,
    Leaves,
    Piece,
    Range,
    Schedule,
    Step,
    Tasks,
    Trunk,
    cut_batch,
    equal_ranges,
    ranges,
    refuse_batch_statistics,
    refuse_hidden_modules,
    require_parts,
    samples_of,
)

__all__ = ["Cached"]


@final
@dataclass(frozen=True)
class Cached(Schedule):
    """Cached: the trunk chunk by chunk, forward without a graph, heads as in Split, then each chunk with its graph.

    Equals::

        z = torch.cat([trunk(chunk) for chunk in chunks])
        sum(task(z, batch) for task in tasks.values()).backward()

    A loss over all samples (a contrastive one) stays the same.

    Memory: O(max(one trunk chunk, largest head) + representation + dL/dz). Passes: the trunk 2 forward and 1
    backward, heads one each.

    Steps:
        1. Trunk forward without a graph, chunk by chunk; the representations are put together.
        2. Each head forward and backward on the whole representation, as in `Split`; dL/dz adds up.
        3. Last chunk first: its trunk forward again, from the random numbers and buffers of its first pass, and
           backward from its slice of dL/dz.

    A chunk draws other, equally valid dropout masks than the whole batch does. With 16-bit parameters `.grad`
    itself adds up in 16 bit, once a chunk; with float32 parameters under autocast it does not. DDP: refused;
    average `.grad` over the processes after the call. AMP: autocast in the callables. BatchNorm: refused in the
    trunk (and in heads in head chunks), because its statistics would be the chunks'.

    Reference: Gao, Zhang, Han and Callan (2021), Scaling Deep Contrastive Learning Batch Size under Memory
    Limited Setup (GradCache).

    Args:
        chunk_size: Number of samples of a trunk chunk; the last one may be shorter.
        head_chunks: Number of pieces of the batch that each head runs over, one after the other; for a large head.
        allow_batch_statistics: Whether modules may use statistics of the chunks; each chunk updates them once.

    Raises:
        ValueError: An argument is out of range; the trunk uses batch statistics, or is a compiled function
            behind which no module can be found; a tensor cannot be cut; or what `Split` refuses in head chunks.
        RuntimeError: A loss was computed in the trunk, whose first pass has no graph.
        ReplayError: The trunk's second pass differs from its first one (compared in its first three steps).
    """

    config_group = "cached"

    chunk_size: int
    head_chunks: int = 1
    allow_batch_statistics: bool = False

    def __post_init__(self) -> None:
        positive_int("chunk_size", self.chunk_size)
        positive_int("head_chunks", self.head_chunks)
        boolean("allow_batch_statistics", self.allow_batch_statistics)

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        require_parts(trunk, tasks)
        refuse_hidden_modules(self, {"trunk": trunk})
        samples = samples_of(batch, "batch")
        chunks = cut_batch(batch, ranges(samples, self.chunk_size))
        if len(chunks) > 1 and not self.allow_batch_statistics:
            refuse_batch_statistics(self, {"trunk": trunk})
        with Step(trunk, tasks, batch, cuts=self.head_chunks, form=form) as step:
            step.refuse_in_pieces(self, allow_batch_statistics=self.allow_batch_statistics)
            if not step.present:
                return step.losses()
            if form.defers:
                self._run_deferred(step, chunks)
            else:
                self._run(step, chunks)
        return step.losses()

    def _run(self, step: Step, chunks: list[Piece]) -> None:
        """Run the trunk's second passes within the step; the first ones need no graph at all."""
        watch, replays = step.replays(self, len(chunks))
        assembly = Assembly(_end(chunks))
        with torch.no_grad():
            for chunk, replay in zip(chunks, replays, strict=True):
                assembly.add(chunk, step.run_again(replay, chunk))
        z = Leaves(assembly.whole(), require_grad=True)
        without_graph = step.run_each(z, z.tree, step.present)
        for chunk, replay in reversed(list(zip(chunks, replays, strict=True))):  # in the order of autograd
            representation = step.run_again(replay, chunk)
            step.require_no_graph(self, without_graph if watch.comparing else [], z.tree)
            step.trunk_backward(z, representation, chunk.samples)
            del representation  # free this chunk's graph before the next one's forward

    def _run_deferred(self, step: Step, chunks: list[Piece]) -> None:
        """Leave the trunk's second passes to the caller's backward."""
        step.run_trunk_again_in_backward(self)
        since = Beginning()
        assembly = Assembly(_end(chunks))
        for chunk in chunks:
            assembly.add(chunk, step.run_trunk(chunk))
        representation = assembly.whole()
        z = Leaves(representation)
        step.run_each(z, representation, step.present, since=since)
        step.trunk_backward(z, representation)

    def cuts(self, samples: int) -> list[Range]:
        """Return the head chunks."""
        return equal_ranges(samples, self.head_chunks)

    def passes(self, samples: int) -> tuple[Any, ...]:
        """Return the numbers of trunk chunks and of head chunks."""
        return len(ranges(samples, self.chunk_size)), len(self.cuts(samples))


def _end(chunks: list[Piece]) -> int:
    assert chunks[-1].samples is not None
    return chunks[-1].samples[1]
