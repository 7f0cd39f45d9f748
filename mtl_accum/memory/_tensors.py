"""Tensor meter: bytes of live tensor storages by category, on any device and for fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mtl_accum._torch_pytree import tree_leaves
from mtl_accum.editions._engine import Kind, listen
from mtl_accum.memory._live_storages import LiveStorages
from mtl_accum.memory._peak import Peak
from mtl_accum.memory._readings import PeakMemory
from mtl_accum.memory._storages import Event, called_by_autograd
from mtl_accum.memory._timeline import Curve, Timeline

__all__ = ["TensorMeter"]


_ADD = torch.ops.aten.add.Tensor


class TensorMeter(TorchDispatchMode):
    """Counts the bytes of all tensor storages that are live inside its block.

    Every operator counts, those of the backward and of the optimizer too. A storage counts from the first operator that
    returns it until Python and autograd have released it. Not counted are buffers inside a kernel (a convolution's
    reordered copies), the intermediate tensors of compiled code, and memory of other libraries until an operator
    returns it.

    The meter reads the live bytes after every operator. The highest reading is the peak; see `LiveStorages` for the
    bytes and `Peak` for its categories. One kind of reading is postponed, see `_take_postponed_reading`.

    Args:
        device: Device whose storages count.
        parameters: Parameters of the network; hooks recognise their gradients while the meter runs.
        buffers: Buffers of the network's modules.
        optimizer: Optimizer whose state is recognised after each of its steps.
        inputs: Pytree of the batch.
        round_to: Bytes that every storage is rounded up to a multiple of; the CUDA allocator's is 512.
        trace: Whether to keep every event, for a snapshot or a simulated allocator.

    Attributes:
        operators: Number of operators that ran.
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
        self.operators = 0
        self._device = device
        self._parameters, self._optimizer = list(parameters), optimizer
        self._hooks = ExitStack()
        self._peak = Peak()
        self._live = LiveStorages(device, self._peak, round_to=round_to, trace=trace)
        self._timeline, self._curve = Timeline(), Curve()
        self._reading_postponed = False
        self._in_backward = False
        self._kind = ""  # of the phase that runs
        self._result: PeakMemory | None = None
        self._add_resident(parameters, buffers, inputs)
        self._base = self._live.size
        self._peak.set(self._base, self._live.categories, self._live.created)
        self._timeline.record(self._base, highest=True)
        self._curve.record(0, self._base)

    @property
    def events(self) -> list[Event]:
        """Creations and deaths of storages in their order, with `trace`."""
        return self._live.events

    def unavailable(self) -> str | None:
        """Return why this meter cannot run here: None, since it always can."""
        return None

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled code run compiled; otherwise Dynamo would mark the user's code as skipped for good."""
        return True

    def __enter__(self) -> Self:
        """Start counting, with hooks for gradients and optimizer state."""
        self._hooks.enter_context(listen(self))
        for parameter in self._parameters:
            if parameter.requires_grad:
                self._hooks.callback(parameter.register_post_accumulate_grad_hook(self._add_gradient).remove)
        if self._optimizer is not None:
            self._hooks.callback(self._optimizer.register_step_post_hook(lambda *_: self._add_state()).remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop counting, and release all tensors."""
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._hooks.close()
        self._result = self.result()
        self._live.clear()
        self._parameters, self._optimizer = [], None

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operator, and count the storages that it returns."""
        if self._reading_postponed:
            self._take_postponed_reading()
        out = func(*args, **(kwargs or {}))
        self.operators += 1
        # Inside a backward gradients are off, except where a checkpointed layer computes its activations again. The
        # gradients that wait for a later backward are added up in its phase, between two passes through the graph.
        in_graph = torch._C._current_graph_task_id() != -1
        backward = not torch.is_grad_enabled() if in_graph else self._kind == "backward"
        if backward and not self._in_backward:
            self._live.generation += 1
        self._in_backward = backward
        category = "temporaries" if backward else "activations"
        if isinstance(out, Tensor):
            self._live.add(out, category, func, self._timeline.current)
        else:
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self._live.add(leaf, category, func, self._timeline.current)
        if backward and func is _ADD and called_by_autograd():
            self._live.begin_sum()
            self._reading_postponed = True
        else:
            self._read(func)
        return out

    def begin(self, name: str, kind: Kind) -> None:
        """Note the start of a phase."""
        self._take_postponed_reading()
        self._kind = kind
        self._timeline.begin(name, kind, self._live.size, self.operators)

    def end(self) -> None:
        """Note the end of a phase."""
        self._take_postponed_reading()
        self._kind = ""
        self._timeline.end(self._live.size, self.operators)

    def result(self) -> PeakMemory:
        """Return the peak since the meter was made, up to now or to the end of its block."""
        if self._result is not None:
            return self._result
        self._take_postponed_reading()
        return PeakMemory(
            self.source,
            str(self._device),
            peak_bytes=self._peak.size,
            base_bytes=self._base,
            end_bytes=self._live.size,
            categories=self._peak.breakdown(),
            peak_phase=self._timeline.peak_phase(),
            peak_operator=None if self._peak.operator is None else str(self._peak.operator),
            timeline=self._timeline.phases(),
            curve=self._curve.thinned(self.operators),
        )

    def _read(self, operator: Any) -> None:
        """Read the live bytes after an operator."""
        highest = self._live.size > self._peak.size
        if highest:
            self._peak.set(self._live.size, self._live.categories, self._live.created, operator)
        self._timeline.record(self._live.size, highest=highest)
        self._curve.record(self.operators, self._live.size)

    def _take_postponed_reading(self) -> None:
        """Take the reading that was postponed after autograd added gradients.

        Without a dispatch mode autograd adds in place, into the gradient that it holds alone. Under a dispatch mode it
        allocates a third tensor, and frees the first operand a moment later. Reading the bytes only after that operand
        is freed gives the figure of the addition in place.
        """
        if self._reading_postponed:
            self._reading_postponed = False
            self._live.end_sum()
            self._read(_ADD)

    def _add_resident(self, parameters: Iterable[Tensor], buffers: Iterable[Tensor], inputs: Any) -> None:
        """Add the storages that are live before the block; one with two categories has the first."""
        for parameter in parameters:
            self._live.add(parameter, "parameters")
        for buffer in buffers:
            self._live.add(buffer, "buffers")
        self._add_state()
        for parameter in parameters:
            self._add_gradient(parameter)
        for leaf in tree_leaves(inputs):
            if isinstance(leaf, Tensor):
                self._live.add(leaf, "inputs")

    def _add_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._add_recognised(parameter.grad, "gradients")

    def _add_state(self) -> None:
        for state in self._optimizer.state.values() if self._optimizer is not None else ():
            for value in tree_leaves(state):
                if isinstance(value, Tensor):
                    self._add_recognised(value, "optimizer_state")

    def _add_recognised(self, tensor: Tensor, category: str) -> None:
        self._live.add(tensor, category, phase=self._timeline.current)
        self._live.recognise(tensor, category)
