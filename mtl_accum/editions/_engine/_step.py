"""What every edition does the same way: run the trunk, run tasks forward and backward, report the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from mtl_accum._state import BufferLog, same_random_numbers
from mtl_accum.editions._engine._absence import warn_of_absence
from mtl_accum.editions._engine._around_trunk import run_trunk
from mtl_accum.editions._engine._edition import Edition
from mtl_accum.editions._engine._forms import Backward, Form
from mtl_accum.editions._engine._leaves import Leaves
from mtl_accum.editions._engine._modules import buffer_owners, modules_of
from mtl_accum.editions._engine._parts import require_parts, warn_of_ranks
from mtl_accum.editions._engine._phase import NO_PHASE, has_listeners, phase
from mtl_accum.editions._engine._refuse import refuse_batch_statistics, refuse_coupled_samples
from mtl_accum.editions._engine._require_loss import require_loss
from mtl_accum.editions._engine._schedule import run_inner
from mtl_accum.editions._engine._types import Tasks, Trunk
from mtl_accum.editions._engine.batch._counted_batch import CountedBatch
from mtl_accum.editions._engine.batch._pieces import Piece, Range
from mtl_accum.editions._engine.batch._pytree import leaves
from mtl_accum.editions._engine.batch._weighted_task import whole_task
from mtl_accum.editions._engine.graph._explain import explain, explain_derivative, watching_derivatives
from mtl_accum.editions._engine.graph._own_graph import Behind
from mtl_accum.editions._engine.graph._walk import Beginning
from mtl_accum.editions._engine.replay._replay import Replay
from mtl_accum.editions._engine.replay._rerun import Rerun
from mtl_accum.editions._engine.replay._second_pass import Watch

__all__ = ["Step"]


class Step:
    """One call of an edition: which tasks are present, and the helpers that run trunk and heads.

    Leaving it with an exception gives every buffer its value of before the call.

    Args:
        trunk: maps a batch to its representation.
        tasks: by name.
        batch: all of it.
        form: What becomes of the losses; by default their backward runs at once.
        cuts: into how many pieces of equal size to cut the batch; 1 leaves it whole, and uncuttable.
        window: the pieces of a batch that comes in several; cuts is 1.
        inner: an edition that each piece goes through.

    Attributes:
        pieces: the batch, cut.
        present: the names of the tasks that have something to learn from this batch, in the tasks' order.
    """

    def __init__(
        self,
        trunk: Trunk,
        tasks: Tasks,
        batch: Any,
        *,
        form: Form | None = None,
        cuts: int = 1,
        window: Sequence[Piece] = (),
        inner: Edition | None = None,
    ) -> None:
        self.form = form or Backward()
        if not torch.is_grad_enabled() and not self.form.defers:
            raise RuntimeError("forward_backward: expected gradients to be enabled, found no_grad or inference_mode")
        require_parts(trunk, tasks)
        if not self.form.defers:
            warn_of_ranks()
        self._trunk, self._tasks, self._batch = trunk, tasks, batch
        together = self.form.together
        self._counted = CountedBatch(tasks, batch, cuts=cuts, window=window, inner=inner, touches=together.touches)
        self.pieces, self.present = self._counted.pieces, self._counted.present
        if not self.present:
            warn_of_absence(tasks, self.pieces[0].batch if window else batch)
        owners = ((name, buffer_owners(whole_task(tasks[name]))) for name in self.present)
        self._owners = {name: modules for name, modules in owners if modules}
        self._losses: dict[str, Tensor] = {}
        self._running: Sequence[str] = ()
        self._buffers = BufferLog()
        self._heard = has_listeners()

    def __enter__(self) -> Step:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            self._buffers.restore()

    def refuse_in_pieces(self, edition: object, *, allow_batch_statistics: bool, trunk: bool = False) -> None:
        """Raise ValueError for what cannot be exact in pieces, if there are several; the trunk's part on request."""
        if len(self.pieces) > 1:
            heads = {name: whole_task(self._tasks[name]) for name in self.present}
            refuse_coupled_samples(edition, heads)
            parts: dict[str, Callable[..., Any]] = {"trunk": self._trunk} if trunk else {}
            parts |= {f"task '{name}'": task for name, task in heads.items()}
            if not allow_batch_statistics:
                refuse_batch_statistics(edition, parts)

    def replays(self, edition: object, count: int) -> tuple[Watch, list[Replay]]:
        """Return what runs trunk passes that will run again, one for each piece of the trunk's."""
        modules = modules_of(self._trunk)
        watch = Watch(self._trunk, modules, edition)
        return watch, [Replay(modules, watch) for _ in range(count)]

    def run_again(self, replay: Replay, piece: Piece | None = None) -> Any:
        """Return the representation of the batch, or of a piece of it, by a pass that runs more than once."""
        return replay.run(lambda: self.run_trunk(piece), self._batch if piece is None else piece.batch)

    def run_trunk_again_in_backward(self, edition: object) -> None:
        """Have every pass of the trunk from now on keep its inputs alone, and run again in the caller's backward."""
        self.form.in_pieces = True
        if torch.is_grad_enabled():
            self._trunk = Rerun.of(self._trunk, edition)

    def run_trunk(self, piece: Piece | None = None) -> Any:
        """The representation of the batch, or of a piece of it."""
        torch.clear_autocast_cache()  # the weight casts of an earlier pass belong to its graph, or to none
        owners = buffer_owners(self._trunk)
        fresh = self._buffers.before(owners) if owners else None
        with phase("trunk", "forward"):
            representation = run_trunk(self._trunk, self._batch if piece is None else piece.batch)
        if fresh:
            self._buffers.after(fresh)
        return representation

    def run_heads(self, names: Sequence[str], representation: Any, piece: Piece) -> Tensor | None:
        """Forward of some tasks on a piece; the sum of their losses, None if none of them is present there."""
        total: Tensor | None = None
        self._running = names
        counted, owners, losses = self._counted, self._owners, self._losses  # locals: this runs once a head
        for name in names:
            has_terms = counted.has_terms(name, piece)
            task = self.form.together.task(name, counted.task_on(name, piece), present=has_terms)
            if task is None:
                continue
            fresh = self._buffers.before(owners[name]) if name in owners else None
            try:
                with phase(f"head {name}", "forward") if self._heard else NO_PHASE:
                    loss = task(representation, piece.batch)
            except RuntimeError as error:
                explain(error, f"task '{name}'")
                raise
            if fresh:
                self._buffers.after(fresh)
            if not isinstance(loss, Tensor) or loss.dim() or loss.is_complex():
                require_loss(f"task '{name}'", loss)
            value = loss.detach().clone()  # a copy: a mean's 0-dim result can keep its element-wise map alive
            losses[name] = losses[name] + value if name in losses else value
            total = loss if total is None else total + loss
        return total

    def run_each(
        self,
        z: Leaves,
        representation: Any,
        names: Sequence[str],
        size: int = 1,
        *,
        since: Beginning | None = None,
    ) -> list[str]:
        """Forward and backward of heads on the leaves of a cut, some at a time, each piece of the batch on its own.

        Args:
            z: The leaves.
            representation: What they are detached from.
            names: The tasks, in the order to run them.
            size: How many share a graph.
            since: When the representation was begun, where it is put together from several passes of the trunk.

        Returns:
            The tasks whose losses had no graph.
        """
        parts = z.cut(self.pieces)
        batches = (self._batch, self.pieces)
        self.form.begin(z, lambda: Behind(leaves(representation), batch=batches, since=since))
        without_graph = []
        with watching_derivatives(self._batch):
            try:
                for group, (piece, part) in list(product(self.form.groups(names, size), parts)):
                    if not self.backward(self.run_heads(group, part, piece)):
                        without_graph += group
            except RuntimeError as error:
                explain_derivative(error, self._who())
                raise
        z.merge_chunks()
        return without_graph

    def require_no_graph(self, edition: object, names: Sequence[str], representation: Any) -> None:
        """Call tasks whose losses had no graph once more, now that the trunk has one, and raise if they have one too.

        Raises:
            RuntimeError: A loss was made in the trunk, whose first pass has no graph: its gradient would be dropped.
        """
        for name in names:
            with same_random_numbers():
                loss = whole_task(self._tasks[name])(representation, self._batch)
            if loss.requires_grad:
                raise RuntimeError(
                    f"{type(edition).__name__}: task '{name}': its loss was made in the trunk (kept in an attribute or "
                    "by a hook), whose first pass has no graph here, so that its gradient would be dropped; return it "
                    "as a part of the representation, or use PerTask()"
                )

    def backward(self, total: Tensor | None, *, into_trunk: bool = False) -> bool:
        """Backward of a sum of losses, now or, where that is the caller's, as far as the cut.

        Returns:
            Whether all was done; a loss without a graph has no backward.
        """
        if total is None or not total.requires_grad:
            return total is None
        try:
            with phase(self._behind(into_trunk), "backward") if self._heard else NO_PHASE:
                self.form.backward(self._running, total, self._who(), into_trunk=into_trunk)
        except RuntimeError as error:
            explain(error, self._who())
            raise
        torch.clear_autocast_cache()
        return True

    def trunk_backward(self, z: Leaves, representation: Any, samples: Range | None = None) -> None:
        """Backward of the trunk from what the heads left in the leaves, now or by the caller."""
        try:
            self.form.trunk_backward(z, representation, samples)
        except RuntimeError as error:
            explain(error, "a task")
            raise

    def run_edition(self, edition: Edition, piece: Piece) -> None:
        """Forward and backward of a piece through another edition."""
        tasks = self._counted.tasks_on(piece)
        if not tasks:
            return
        functions: tuple[Callable[..., Any], ...] = (self._trunk, *(whole_task(self._tasks[name]) for name in tasks))
        fresh = self._buffers.before({owner: None for function in functions for owner in buffer_owners(function)})
        for name, loss in run_inner(self.form, edition, self._trunk, tasks, piece.batch).items():
            self._losses[name] = self._losses[name] + loss if name in self._losses else loss
        self._buffers.after(fresh)

    def losses(self) -> dict[str, Tensor]:
        """The tasks' own losses, detached, in the tasks' order; 0 for an absent task."""
        absent = self._zero() if len(self._losses) < len(self._tasks) else None
        return {name: self._losses.get(name, absent) for name in self._tasks}  # type: ignore[misc]

    def _who(self) -> str:
        return f"task {', '.join(map(repr, self._running))}"

    def _behind(self, into_trunk: bool) -> str:
        """What a backward goes through."""
        heads = f"head {self._running[0]}" if len(self._running) == 1 else f"{len(self._running)} heads"
        return f"{heads} and trunk" if into_trunk else heads

    def _zero(self) -> Tensor:
        for like in (*self._losses.values(), *leaves(self._batch)):
            if isinstance(like, Tensor):
                return torch.zeros((), device=like.device)
        return torch.zeros(())
