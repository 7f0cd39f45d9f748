"""Training steps on tensors without data: nothing real runs, nothing real changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from mtl_accum.editions import Edition, SummedLoss, Tasks, Trunk
from mtl_accum.editions._phase import listening
from mtl_accum.editions._replay import RandomState
from mtl_accum.memory._caching_allocator import BLOCK
from mtl_accum.memory._cuda_operators import cuda_operators, prefer_foreach
from mtl_accum.memory._fake import CLOSURES, OnCpu, Unknowns, fake_copy
from mtl_accum.memory._tensors import TensorMeter
from mtl_accum.memory._training_step import TrainingStep

__all__ = ["Build", "Parts", "PredictionError", "Rehearsal"]

Parts = tuple[Trunk, Tasks, Any, "torch.optim.Optimizer | None"]
Build = Callable[[], Parts]


class PredictionError(RuntimeError):
    """The step cannot be predicted; the message says why, and what to do."""


class Rehearsal:
    """A network, its optimizer and a batch without data, for a device; inside the block its steps can be run.

    Args:
        parts: (trunk, tasks, batch, optimizer or None); or a function that returns them, called where tensors have
            no data.
        cuda: run CUDA's operators, and round as its allocator does.

    Attributes:
        modules: all that trunk and tasks can reach.
        seen: the names of the operators that ran in the latest step.

    Raises:
        TypeError: a callable keeps its modules in a closure, or a module is lazy; the message names the fix.
        PredictionError: from inside the block: the step does not run on tensors without data.
    """

    def __init__(self, parts: Parts | Build, *, cuda: bool) -> None:
        self._given, self._cuda = parts, cuda
        self._unknown = Unknowns()
        self._open = ExitStack()
        self.modules: list[nn.Module] = []

    @property
    def seen(self) -> set[str]:
        """The names of the operators that ran in the latest step."""
        return self._unknown.seen

    def __enter__(self) -> Self:
        """Copy the network without its data, and run a step, so that the optimizer has its state."""
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with ExitStack() as stack:
            stack.callback(RandomState().restore)
            real = None if callable(self._given) else self._given[3]
            stack.enter_context(_untouched(real))
            if callable(self._given):
                with mode, self._unknown:
                    self._parts = self._given()
            else:
                self._parts = fake_copy(mode, *self._given)
            if self._cuda and self._parts[3] is not None:
                prefer_foreach(self._parts[3])
            stack.enter_context(mode)
            if self._cuda:
                stack.enter_context(cuda_operators())
                stack.enter_context(OnCpu())
            stack.enter_context(listening(self._unknown, alone=True))  # a meter outside must not hear these steps
            stack.enter_context(self._unknown)
            stack.enter_context(_in_words())
            TrainingStep(*self._parts, SummedLoss())()  # the state is the same whatever computed the gradient
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave everything as it was."""
        self._open.__exit__(kind, error, trace)

    def step(self, edition: Edition, *, trace: bool = False) -> TensorMeter:
        """Run one step, under a meter that has seen it all afterwards."""
        self._unknown.forget()
        step = TrainingStep(*self._parts, edition)
        self.modules = step.modules
        with step.tensor_meter(round_to=BLOCK if self._cuda else 1, trace=trace) as meter:
            step()
        return meter

    def caveats(self) -> list[str]:
        """What the latest step leaves uncertain."""
        names = sorted({type(module).__name__ for module in self.modules if isinstance(module, nn.RNNBase)})
        recurrent = (
            f"too low: {', '.join(names)} keeps a reserve for its backward that tensors without data do not show (for "
            "an LSTM a prediction was 41 to 73 % below the measured peak); measure instead"
        )
        return [*self._unknown.caveats(), *([recurrent] if names else [])]


@contextmanager
def _in_words() -> Iterator[None]:
    """Say what went wrong on tensors without data; what editions refuse (ValueError) passes as it is."""
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise PredictionError(f"shapes depend on values ({error}); measure with compare instead") from error
    except (RuntimeError, TypeError, NotImplementedError, AttributeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise PredictionError(f"the step does not run on tensors without data ({reason})") from error


@contextmanager
def _untouched(optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
    """Give the real parameters their gradients back; raise where a callable has run on one, without a module."""
    groups = [] if optimizer is None else optimizer.param_groups
    real: list[tuple[Tensor, Tensor | None]] = [(p, p.grad) for group in groups for p in group["params"]]
    touched = False
    try:
        yield
        touched = any(parameter.grad is not gradient for parameter, gradient in real)
    finally:
        for parameter, gradient in real:
            parameter.grad = gradient
    if touched:
        raise TypeError(f"a parameter of the optimizer belongs to no module: {CLOSURES}")
