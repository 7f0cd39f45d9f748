"""The parts of a step that all editions share: passes of the trunk and of the heads, and the tasks' losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from mtl_accum._state import BufferSnapshot, same_random_numbers
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
    """One call of an edition: the tasks that are present, and the passes of trunk and heads.

    Leaving the context with an exception restores every buffer to its value before the call.

    Args:
        trunk: Function from a batch to its representation.
        tasks: Tasks by name.
        batch: The whole batch.
        form: Form of the call; by default the losses' backward runs at once.
        cuts: Number of pieces of equal size to cut the batch into; 1 leaves the batch whole, so it need not be one that
            can be cut.
        window: Pieces of a batch that comes in several; `cuts` is 1.
        inner: Edition that each piece goes through.

    Attributes:
        pieces: The batch, cut.
        present: Names of the tasks that have terms in this batch, in the tasks' order.
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
        self._buffers = BufferSnapshot()
        self._has_listeners = has_listeners()

    def __enter__(self) -> Step:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            self._buffers.restore()

    def refuse_in_pieces(self, edition: object, *, allow_batch_statistics: bool, trunk: bool = False) -> None:
        """Raise ValueError if there are several pieces and a head (or the trunk, on request) is not exact in them."""
        if len(self.pieces) > 1:
            heads = {name: whole_task(self._tasks[name]) for name in self.present}
            refuse_coupled_samples(edition, heads)
            parts: dict[str, Callable[..., Any]] = {"trunk": self._trunk} if trunk else {}
            parts |= {f"task '{name}'": task for name, task in heads.items()}
            if not allow_batch_statistics:
                refuse_batch_statistics(edition, parts)

    def replays(self, edition: object, count: int) -> tuple[Watch, list[Replay]]:
        """Return objects that run a pass of the trunk and replay it, one for each piece that the trunk runs on."""
        modules = modules_of(self._trunk)
        watch = Watch(self._trunk, modules, edition)
        return watch, [Replay(modules, watch) for _ in range(count)]

    def run_again(self, replay: Replay, piece: Piece | None = None) -> Any:
        """Return the representation of the batch, or of a piece of it, from a pass that runs more than once."""
        return replay.run(lambda: self.run_trunk(piece), self._batch if piece is None else piece.batch)

    def run_trunk_again_in_backward(self, edition: object) -> None:
        """Let later passes of the trunk keep their inputs only, and run again in the caller's backward."""
        self.form.in_pieces = True
        if torch.is_grad_enabled():
            self._trunk = Rerun.of(self._trunk, edition)

    def run_trunk(self, piece: Piece | None = None) -> Any:
        """Return the representation of the batch, or of a piece of it."""
        torch.clear_autocast_cache()  # weight casts of an earlier pass belong to that pass's graph, or to none
        owners = buffer_owners(self._trunk)
        fresh = self._buffers.add(owners) if owners else None
        with phase("trunk", "forward"):
            representation = run_trunk(self._trunk, self._batch if piece is None else piece.batch)
        if fresh:
            self._buffers.discard_unchanged(fresh)
        return representation

    def run_heads(self, names: Sequence[str], representation: Any, piece: Piece) -> Tensor | None:
        """Run some tasks forward on a piece, and return the sum of their losses; None if none of them is present."""
        total: Tensor | None = None
        self._running = names
        counted, owners, losses = self._counted, self._owners, self._losses  # locals: this runs once a head
        for name in names:
            has_terms = counted.has_terms(name, piece)
            task = self.form.together.task(name, counted.task_on(name, piece), present=has_terms)
            if task is None:
                continue
            fresh = self._buffers.add(owners[name]) if name in owners else None
            try:
                with phase(f"head {name}", "forward") if self._has_listeners else NO_PHASE:
                    loss = task(representation, piece.batch)
            except RuntimeError as error:
                explain(error, f"task '{name}'")
                raise
            if fresh:
                self._buffers.discard_unchanged(fresh)
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
        """Run heads forward and backward on the leaves of a cut, some at a time, on one piece of the batch at a time.

        Args:
            z: The leaves.
            representation: Representation that the leaves are detached from.
            names: Names of the tasks, in the order to run them.
            size: Number of heads that share a graph.
            since: Beginning of the representation's graph, where several passes of the trunk contribute to it.

        Returns:
            Names of the tasks whose losses had no graph.
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
        """Call tasks whose losses had no graph again with the trunk's graph, and raise if their losses have one now.

        Raises:
            RuntimeError: A loss was computed in the trunk, whose first pass has no graph: its gradient would be lost.
        """
        for name in names:
            with same_random_numbers():
                loss = whole_task(self._tasks[name])(representation, self._batch)
            if loss.requires_grad:
                raise RuntimeError(
                    f"{type(edition).__name__}: task '{name}': its loss was made in the trunk (kept in an attribute or "
                    "by a hook), whose first pass has no graph here, so its gradient would be dropped; return it "
                    "as a part of the representation, or use PerTask()"
                )

    def backward(self, total: Tensor | None, *, into_trunk: bool = False) -> bool:
        """Run the backward of a sum of losses; as far as the cut where the caller runs the trunk's backward.

        Returns:
            False for a loss without a graph, which has no backward.
        """
        if total is None or not total.requires_grad:
            return total is None
        try:
            with phase(self._phase_name(into_trunk), "backward") if self._has_listeners else NO_PHASE:
                self.form.backward(self._running, total, self._who(), into_trunk=into_trunk)
        except RuntimeError as error:
            explain(error, self._who())
            raise
        torch.clear_autocast_cache()
        return True

    def trunk_backward(self, z: Leaves, representation: Any, samples: Range | None = None) -> None:
        """Run the trunk's backward from the gradients in the leaves, or prepare it for the caller's backward."""
        try:
            self.form.trunk_backward(z, representation, samples)
        except RuntimeError as error:
            explain(error, "a task")
            raise

    def run_edition(self, edition: Edition, piece: Piece) -> None:
        """Run a piece forward and backward through another edition."""
        tasks = self._counted.tasks_on(piece)
        if not tasks:
            return
        functions: tuple[Callable[..., Any], ...] = (self._trunk, *(whole_task(self._tasks[name]) for name in tasks))
        fresh = self._buffers.add({owner: None for function in functions for owner in buffer_owners(function)})
        for name, loss in run_inner(self.form, edition, self._trunk, tasks, piece.batch).items():
            self._losses[name] = self._losses[name] + loss if name in self._losses else loss
        self._buffers.discard_unchanged(fresh)

    def losses(self) -> dict[str, Tensor]:
        """Return the tasks' own losses, detached, in the tasks' order; 0 for an absent task."""
        absent = self._zero() if len(self._losses) < len(self._tasks) else None
        return {name: self._losses.get(name, absent) for name in self._tasks}  # type: ignore[misc]

    def _who(self) -> str:
        return f"task {', '.join(map(repr, self._running))}"

    def _phase_name(self, into_trunk: bool) -> str:
        """Return the name of the backward's phase."""
        heads = f"head {self._running[0]}" if len(self._running) == 1 else f"{len(self._running)} heads"
        return f"{heads} and trunk" if into_trunk else heads

    def _zero(self) -> Tensor:
        for like in (*self._losses.values(), *leaves(self._batch)):
            if isinstance(like, Tensor):
                return torch.zeros((), device=like.device)
        return torch.zeros(())
