"""Dry runs: training steps on tensors without data, under the tensor meter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mtl_accum._optimizers import joined, steppable
from mtl_accum._state import same_random_numbers
from mtl_accum._torch_pytree import tree_leaves
from mtl_accum.editions import TO_HOST, EditionLike, SummedLoss, Tasks, modules_of
from mtl_accum.editions._engine import Piece, couples_samples, listen, read_counts, take
from mtl_accum.memory import BLOCK, Build, Parts, TensorMeter, TrainingStep
from mtl_accum.prediction._cuda_operators import cuda_operators, prefer_foreach
from mtl_accum.prediction._data_dependence import CudaOnCpu, DataDependenceTracker
from mtl_accum.prediction._errors import translated_errors
from mtl_accum.prediction._fake_copy import fake_copy
from mtl_accum.prediction._transformers import attention_masks

__all__ = ["DryRun"]


class DryRun:
    """Runs steps of a network inside its block without data, as they would run on a device.

    Args:
        parts: Trunk, tasks, batch and optimizer or None; or a function that returns them, called where tensors have
            no data.
        cuda: Whether to run CUDA's operators, and to round sizes as its allocator does.

    Attributes:
        modules: Modules that trunk and tasks can reach.

    Raises:
        TypeError: A callable keeps its modules in a closure, or a module is lazy; the message names the fix.
        PredictionError: From inside the block: the step does not run on tensors without data.
    """

    def __init__(self, parts: Parts | Build, *, cuda: bool) -> None:
        self._given, self._cuda = parts, cuda
        self._tracker = DataDependenceTracker()
        self._contexts = ExitStack()
        self._present: dict[str, bool] = {}
        self._compiled: list[str] = []
        self._autocast_caveats: list[str] = []
        self._mask_caveats: list[str] = []
        self.modules: list[nn.Module] = []

    @property
    def parts(self) -> Parts:
        """Trunk, tasks, batch and optimizer inside the block, without data."""
        return self._parts

    @property
    def present(self) -> Tasks:
        """Tasks with a target in the batch, by name; all tasks where the batch has no data."""
        return {name: task for name, task in self._parts[1].items() if not isinstance(task, _AbsentTask)}

    @property
    def operators(self) -> set[str]:
        """Names of the operators that ran in the latest step."""
        return self._tracker.operators

    def __enter__(self) -> Self:
        """Copy the network without its data, and run a step that creates the optimizer's state.

        Contexts are entered from the outermost to the innermost, and the order matters where it is numbered:

        1. Random numbers and torch's log come first: they cover the copy too, and are restored last.
        2. The fake mode comes before the tracker: of two dispatch modes, the one entered last gets an operator first.
           The tracker has to see it before the fake mode turns it into a result.
        3. The translation of errors comes last: an error reaches it first, while the tracker still has the part of the
           network that failed.

        The others (CUDA's operators and devices, transfers to the host, phases, attention masks) are independent.
        """
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with ExitStack() as stack:
            stack.enter_context(same_random_numbers())
            stack.enter_context(_silenced_log())
            self._parts = self._parts_without_data(mode)
            stack.enter_context(mode)
            if self._cuda:
                self._autocast_caveats = stack.enter_context(cuda_operators())
                stack.enter_context(CudaOnCpu())
                stack.enter_context(_discarded_on_host())
            stack.enter_context(listen(self._tracker, alone=True))  # no meter outside may count these steps
            stack.enter_context(self._tracker)
            self._mask_caveats = stack.enter_context(attention_masks())
            stack.enter_context(translated_errors(self._tracker))
            warm_up = TrainingStep(*self._parts, SummedLoss())
            if warm_up.compiled():
                stack.enter_context(torch.compiler.set_stance("force_eager"))
                self._compiled = ["compiled code is predicted as if it were not compiled: it may need less"]
            warm_up()  # the optimizer's state does not depend on the edition
            self._contexts = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore torch's modes, random numbers and log."""
        self._contexts.__exit__(kind, error, trace)

    def step(self, edition: EditionLike, *, samples: int | None = None, trace: bool = False) -> TensorMeter:
        """Run one step under a meter.

        Args:
            edition: Edition that computes the gradient.
            samples: Number of samples; None runs the whole batch.
            trace: Whether the meter keeps every event.

        Returns:
            The meter, after the step.
        """
        self._tracker.reset()
        trunk, tasks, batch, optimizer = self._parts
        part = batch if samples is None else take(batch, (0, samples))
        step = TrainingStep(trunk, tasks, part, optimizer, edition)
        self.modules = step.modules
        with step.tensor_meter(round_to=BLOCK if self._cuda else 1, trace=trace) as meter:
            step()
        return meter

    def bounds(self) -> list[str]:
        """Return a caveat if some result had the largest size that its values allow, in any step."""
        return self._tracker.bounds()

    def caveats(self) -> list[str]:
        """Return the caveats of the latest step."""
        caveats = [
            *self._tracker.caveats(counted=bool(self._present)),
            *self._compiled,
            *self._autocast_caveats[:1],
            *self._mask_caveats,
        ]
        recurrent = sorted({type(module).__name__ for module in self.modules if isinstance(module, nn.RNNBase)})
        if recurrent and self._cuda:
            caveats.append(
                f"{', '.join(recurrent)}: predicted by the CPU's operators; cuDNN's keep a reserve of their own, which "
                "may be more or less; measure"
            )
        elif "LSTM" in recurrent:
            caveats.append(
                "too low: an LSTM's kernel keeps a reserve for its backward that tensors without data do not show "
                "(predictions were 41 to 73 % below the measured peak); measure"
            )
        return caveats

    def _parts_without_data(self, mode: FakeTensorMode) -> Parts:
        """Copy the parts without their data, or build them where tensors have none."""
        if callable(self._given):
            with mode, self._tracker:
                parts = _require_fake(self._given())
        else:
            trunk, tasks, batch, optimizer = self._given
            self._present = _present(tasks, batch)
            trunk, tasks, batch, optimizer = fake_copy(mode, trunk, tasks, batch, joined(optimizer))
            tasks = {name: task if self._present.get(name, True) else _AbsentTask(task) for name, task in tasks.items()}
            parts = trunk, tasks, batch, optimizer
        _remove_terms(parts[1])
        optimizer = joined(parts[3])
        if self._cuda and optimizer is not None:
            prefer_foreach(optimizer)
        return parts


class _AbsentTask:
    """Task without a target in the batch: its count is 0.

    Args:
        task: The task.
    """

    def __init__(self, task: Any) -> None:
        self._task = task
        self.couples_samples = couples_samples(task)

    def __call__(self, representation: Any, batch: Any) -> Any:
        """Return the loss; an edition calls no task whose count is 0."""
        return self._task(representation, batch)

    def count(self, batch: Any) -> int:
        """Return 0 for any piece of the batch."""
        return 0


def _remove_terms(tasks: Tasks) -> None:
    """Remove the declared number of terms from copied losses: without data it would seem to contradict the counts."""
    for task in tasks.values():
        if hasattr(task, "terms"):
            task.terms = None


def _present(tasks: Tasks, batch: Any) -> dict[str, bool]:
    """Return whether each task has a target in the real batch; empty if the batch has no data to count."""
    if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(batch)):
        return {}
    return {name: bool(counts[None]) for name, counts in read_counts(tasks, [Piece(None, batch)]).items()}


def _require_fake(parts: Parts) -> Parts:
    """Return the result of a `build`, with its optimizers as one.

    Raises:
        TypeError: The result is no tuple of four, or holds parameters from outside.
    """
    if not isinstance(parts, tuple) or len(parts) != 4:
        raise TypeError(f"build must return (trunk, tasks, batch, optimizer or None), found {type(parts).__name__}")
    trunk, tasks, batch, optimizer = parts[0], parts[1], parts[2], steppable(parts[3])
    tensors = [p for module in modules_of(trunk, *tasks.values()) for p in module.parameters(recurse=False)]
    tensors += [p for group in (optimizer.param_groups if optimizer else []) for p in group["params"]]
    if not all(isinstance(tensor, FakeTensor) for tensor in tensors):
        raise TypeError("build must make the network itself, found parameters from outside; make them in the function")
    return trunk, tasks, batch, optimizer


@contextmanager
def _discarded_on_host() -> Iterator[None]:
    """Discard tensors that are moved to the host, since only memory of the device counts."""

    def discard(tensor: Tensor) -> Callable[[], Tensor]:
        shape, strides, dtype = tensor.shape, tensor.stride(), tensor.dtype
        return lambda: torch.empty_strided(shape, strides, dtype=dtype)

    token = TO_HOST.set(discard)
    try:
        yield
    finally:
        TO_HOST.reset(token)


@contextmanager
def _silenced_log() -> Iterator[None]:
    """Silence the traceback that torch logs for an error which it raises as well."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
