"""The tensor meter: bytes of live tensor storages, by what they are, on any device and for fake tensors too."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import fields
from typing import Any, Self

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtl_accum.editions._engine import Kind, listen
from mtl_accum.memory._readings import Breakdown, PeakMemory
from mtl_accum.memory._storages import Event, Storage, called_by_autograd, storages
from mtl_accum.memory._timeline import Curve, Timeline

__all__ = ["TensorMeter"]


_ADD = torch.ops.aten.add.Tensor


class TensorMeter(TorchDispatchMode):
    """Counts the bytes of all tensor storages that are alive inside its block.

    Every operator is seen, those of the backward and of the optimizer too; a storage counts from its first
    sight until Python and autograd have let go of it. Not seen: buffers inside a kernel (a convolution's
    reordered copies), the intermediate tensors of compiled code, memory of other libraries until an operator
    touches it.

    Args:
        device: the device whose storages count.
        parameters: of the network; their gradients are recognised by hooks while the meter runs.
        buffers: of its modules.
        optimizer: its state is recognised after each of its steps.
        inputs: a pytree: the batch.
        round_to: every storage counts as a multiple of so many bytes; the CUDA allocator's is 512.
        trace: keep every event, for a snapshot or a simulated allocator.

    Attributes:
        events: with `trace`, what came to life and died, in order.
        operators: how many were seen.
    """

    source = "tensors"

    def __init__(
        self,
        device: torch.device,
        *,
        parameters: Sequence[Tensor] = (),
        buffers: Sequence[Tensor] = (),
        optimizer: torch.optim.Optimizer | None = None,
        inputs: Any = None,
        round_to: int = 1,
        trace: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.operators = 0
        self._device, self._round_to, self._trace = device, round_to, trace
        self._parameters, self._optimizer = list(parameters), optimizer
        self._storages: dict[int, Storage] = {}
        self._hooks = ExitStack()
        self._live, self._made = 0, 0
        self._now = {field.name: 0 for field in fields(Breakdown)}
        self._sum: Event | None = None  # the birth of a sum of gradients
        self._settled = True  # whether its operands had the time to die
        self._generation, self._in_backward = 0, False  # generations of activations: a backward ends one
        self._announced = ""  # the kind of the phase
        self._timeline, self._curve = Timeline(), Curve()
        self._resting(parameters, buffers, inputs)
        self._base = self._peak = self._live
        self._timeline.see(self._base, highest=True)
        self._curve.see(0, self._base)
        self._result: PeakMemory | None = None
        self._at_peak, self._peak_at = dict(self._now), self._made
        self._peak_operator: Any = None

    def unavailable(self) -> str | None:
        """Why this meter cannot run here: it always can."""
        return None

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled code run compiled; without it Dynamo would mark the user's code as skipped for ever."""
        return True

    def __enter__(self) -> Self:
        """Begin: hooks find gradients and optimizer state, phases are heard."""
        self._hooks.enter_context(listen(self))
        for parameter in self._parameters:
            if parameter.requires_grad:
                self._hooks.callback(parameter.register_post_accumulate_grad_hook(self._gradient).remove)
        if self._optimizer is not None:
            self._hooks.callback(self._optimizer.register_step_post_hook(lambda *_: self._state()).remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: object) -> None:
        """End: what happens to tensors afterwards does not count, and nothing is held any more."""
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._hooks.close()
        self._result = self.result()
        self._storages.clear()
        self._parameters, self._optimizer = [], None

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and count what it made."""
        if not self._settled:
            self._settle()
        out = func(*args, **(kwargs or {}))
        self.operators += 1
        # In a backward gradients are off, but for a checkpointed layer that computes its activations again. Gradients
        # that wait for a later backward are added up in its phase, between two passes through the graph.
        in_graph = torch._C._current_graph_task_id() != -1
        backward = not torch.is_grad_enabled() if in_graph else self._announced == "backward"
        if backward and not self._in_backward:
            self._generation += 1
        self._in_backward = backward
        category = "temporaries" if backward else "activations"
        if isinstance(out, Tensor):
            self._add(out, category, func)
        else:
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self._add(leaf, category, func)
        if backward and func is _ADD and called_by_autograd():
            self._sum, self._settled = self.events[-1] if self._trace else None, False
        else:
            self._look(func)
        return out

    def begin(self, name: str, kind: Kind) -> None:
        """A phase begins."""
        self._settle()
        self._announced = kind
        self._timeline.begin(name, kind, self._live, self.operators)

    def end(self) -> None:
        """It is over."""
        self._settle()
        self._announced = ""
        self._timeline.end(self._live, self.operators)

    def result(self) -> PeakMemory:
        """The peak since this meter was made; up to the end of its block, once that is over."""
        if self._result is not None:
            return self._result
        self._settle()
        return PeakMemory(
            self.source,
            str(self._device),
            peak_bytes=self._peak,
            base_bytes=self._base,
            end_bytes=self._live,
            categories=Breakdown(**self._at_peak),
            peak_phase=self._timeline.peak_phase(),
            peak_operator=None if self._peak_operator is None else str(self._peak_operator),
            timeline=self._timeline.phases(),
            curve=self._curve.thinned(self.operators),
        )

    def _look(self, operator: Any) -> None:
        """Whether this is the highest point so far."""
        highest = self._live > self._peak
        if highest:
            self._peak, self._peak_at, self._peak_operator = self._live, self._made, operator
            self._at_peak = self._now.copy()
        self._timeline.see(self._live, highest=highest)
        self._curve.see(self.operators, self._live)

    def _settle(self) -> None:
        """Look again after a sum of gradients.

        Where several gradients meet, autograd adds into the one that nobody else holds; but not while a dispatch
        mode watches, then into a third tensor, and the first dies. So what counts is what is left a moment later.
        """
        if not self._settled:
            self._sum, self._settled = None, True
            self._look(_ADD)

    def _resting(self, parameters: Iterable[Tensor], buffers: Iterable[Tensor], inputs: Any) -> None:
        """What is alive before the block; what is two things at once counts as the first."""
        for parameter in parameters:
            self._add(parameter, "parameters")
        for buffer in buffers:
            self._add(buffer, "buffers")
        self._state()
        for parameter in parameters:
            self._gradient(parameter)
        for leaf in tree_leaves(inputs):
            if isinstance(leaf, Tensor):
                self._add(leaf, "inputs")

    def _gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._add(parameter.grad, "gradients")
            self._recognise(parameter.grad, "gradients")

    def _state(self) -> None:
        for state in self._optimizer.state.values() if self._optimizer is not None else ():
            for value in tree_leaves(state):
                if isinstance(value, Tensor):
                    self._add(value, "optimizer_state")
                    self._recognise(value, "optimizer_state")

    def _add(self, tensor: Tensor, category: str, operator: Any = None) -> None:
        if tensor.device == self._device:
            for storage in storages(tensor):
                key, size = id(storage), -(-storage.nbytes() // self._round_to) * self._round_to
                known = self._storages.get(key)
                if known is None:
                    self._born(key, storage, size, category, operator)
                elif known.size != size:
                    self._resized(known, size)

    def _born(self, key: int, storage: UntypedStorage, size: int, category: str, operator: Any) -> None:
        self._made += 1
        event = Event(self._made, size, str(operator or category), self._timeline.now) if self._trace else None
        known = self._storages[key] = Storage(size, category, self._made, self._generation, event)
        known.reference = weakref.ref(storage, lambda _: self._died(key))
        self._live += size
        self._now[category] += size
        if event is not None:
            self.events.append(event)

    def _resized(self, known: Storage, size: int) -> None:
        self._live += size - known.size
        self._now[known.category] += size - known.size
        if known.event is not None:
            self.events.append(known.event._replace(size=-known.size))
            known.event = known.event._replace(size=size)
            self.events.append(known.event)
        known.size = size

    def _died(self, key: int) -> None:
        known = self._storages.pop(key, None)
        if known is None:  # the block is over
            return
        self._live -= known.size
        self._now[known.category] -= known.size
        if known.event is not None:
            at = len(self.events)
            if self._sum is not None and known.event is not self._sum:  # an operand: before the sum is born
                at = next(index for index in reversed(range(at)) if self.events[index] is self._sum)
            self.events.insert(at, known.event._replace(size=-known.size))
        # No backward ran in its lifetime: nothing was kept for one. If it saw the peak, say so there.
        if known.category == "activations" and known.generation == self._generation:
            self._move_at_peak(known, "temporaries")

    def _recognise(self, tensor: Tensor, category: str) -> None:
        """A storage turns out to be something that it was from its birth on."""
        for storage in storages(tensor):
            known = self._storages.get(id(storage))
            if known is not None and known.category in ("activations", "temporaries"):
                self._now[known.category] -= known.size
                self._now[category] += known.size
                self._move_at_peak(known, category)
                known.category = category

    def _move_at_peak(self, known: Storage, category: str) -> None:
        if known.birth <= self._peak_at:
            self._at_peak[known.category] -= known.size
            self._at_peak[category] += known.size
