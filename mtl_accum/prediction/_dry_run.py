"""Training steps on tensors without data: nothing real runs, nothing real changes."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._pytree import tree_leaves

from mtl_accum._optimizers import joined, steppable
from mtl_accum._state import same_random_numbers
from mtl_accum.editions import TO_HOST, EditionLike, SummedLoss, Tasks, modules_of
from mtl_accum.editions._engine import Piece, couples_samples, listen, read_counts, take
from mtl_accum.memory import BLOCK, Build, Parts, TensorMeter, TrainingStep
from mtl_accum.prediction._cuda_operators import cuda_operators, prefer_foreach
from mtl_accum.prediction._fake import ForeignParameterError, OnCpu, Unknowns, fake_copy
from mtl_accum.prediction._place import place_of
from mtl_accum.prediction._transformers import attention_masks

__all__ = ["DryRun", "PredictionError"]

# Torch's words where a tensor has no data.
_FOR_WANT_OF_DATA = (
    "FakeTensor",
    "tensor subclass",
    "eta tensor",
    "support for cuda devices",
    "not compiled with CUDA",
)


class PredictionError(RuntimeError):
    """The step cannot be predicted; the message says why, and what to do."""


class DryRun:
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
        self._present: dict[str, bool] = {}
        self._compiled: list[str] = []
        self._turned_off: list[str] = []
        self._masks: list[str] = []
        self.modules: list[nn.Module] = []

    @property
    def parts(self) -> Parts:
        """Trunk, tasks, batch and optimizer as they are inside the block: without data."""
        return self._parts

    @property
    def present(self) -> Tasks:
        """The tasks that have something to learn from this batch, as far as it tells."""
        return {name: task for name, task in self._parts[1].items() if not isinstance(task, _Absent)}

    @property
    def seen(self) -> set[str]:
        """The names of the operators that ran in the latest step."""
        return self._unknown.seen

    def __enter__(self) -> Self:
        """Copy the network without its data, and run a step, so that the optimizer has its state."""
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with ExitStack() as stack:
            stack.enter_context(same_random_numbers())
            stack.enter_context(_quiet())
            if callable(self._given):
                with mode, self._unknown:
                    self._parts = _without_data(self._given())
            else:
                trunk, tasks, batch, optimizer = self._given
                self._present = _present(tasks, batch)
                trunk, tasks, batch, optimizer = fake_copy(mode, trunk, tasks, batch, joined(optimizer))
                tasks = {name: task if self._present.get(name, True) else _Absent(task) for name, task in tasks.items()}
                self._parts = trunk, tasks, batch, optimizer
            _take_counts_at_their_word(self._parts[1])
            one = joined(self._parts[3])
            if self._cuda and one is not None:
                prefer_foreach(one)
            stack.enter_context(mode)
            if self._cuda:
                self._turned_off = stack.enter_context(cuda_operators())
                stack.enter_context(OnCpu())
                stack.enter_context(_no_host())
            stack.enter_context(listen(self._unknown, alone=True))  # a meter outside must not hear these steps
            stack.enter_context(self._unknown)
            self._masks = stack.enter_context(attention_masks())
            stack.enter_context(_in_words(self._unknown))
            warm_up = TrainingStep(*self._parts, SummedLoss())
            if warm_up.compiled():
                stack.enter_context(torch.compiler.set_stance("force_eager"))
                self._compiled = ["compiled code is predicted as if it were not compiled: it may need less"]
            warm_up()  # the state is the same whatever computed the gradient
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave everything as it was."""
        self._open.__exit__(kind, error, trace)

    def step(self, edition: EditionLike, *, samples: int | None = None, trace: bool = False) -> TensorMeter:
        """Run one step, on so many samples of the batch or on all, under a meter that has seen it all afterwards."""
        self._unknown.forget()
        trunk, tasks, batch, optimizer = self._parts
        part = batch if samples is None else take(batch, (0, samples))
        step = TrainingStep(trunk, tasks, part, optimizer, edition)
        self.modules = step.modules
        with step.tensor_meter(round_to=BLOCK if self._cuda else 1, trace=trace) as meter:
            step()
        return meter

    def bounds(self) -> list[str]:
        """What was taken to be as large as it can be, since its size depends on values."""
        return self._unknown.bounds()

    def caveats(self) -> list[str]:
        """What the latest step leaves uncertain."""
        found = [
            *self._unknown.caveats(counted=bool(self._present)),
            *self._compiled,
            *self._turned_off[:1],
            *self._masks,
        ]
        recurrent = sorted({type(module).__name__ for module in self.modules if isinstance(module, nn.RNNBase)})
        if recurrent and self._cuda:
            found.append(
                f"{', '.join(recurrent)}: predicted by the CPU's operators; cuDNN's keep a reserve of their own, which "
                "may be more or less; measure"
            )
        elif "LSTM" in recurrent:
            found.append(
                "too low: an LSTM's kernel keeps a reserve for its backward that tensors without data do not show "
                "(predictions were 41 to 73 % below the measured peak); measure"
            )
        return found


class _Absent:
    """A task that has nothing to learn from this batch: its count there is 0."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self.couples_samples = couples_samples(task)

    def __call__(self, representation: Any, batch: Any) -> Any:
        """Never called."""
        return self._task(representation, batch)

    def count(self, batch: Any) -> int:
        """Of any piece."""
        return 0


def _take_counts_at_their_word(tasks: Tasks) -> None:
    """Let the copies state no terms of their losses: without data they are not known, and seem to contradict counts."""
    for task in tasks.values():
        if hasattr(task, "terms"):
            task.terms = None


def _present(tasks: Tasks, batch: Any) -> dict[str, bool]:
    """Which tasks have something to learn from the real batch; empty where that has no data to count."""
    if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(batch)):
        return {}
    return {name: bool(counts[None]) for name, counts in read_counts(tasks, [Piece(None, batch)]).items()}


def _without_data(parts: Parts) -> Parts:
    """What a `build` has made, if it has made it here."""
    if not isinstance(parts, tuple) or len(parts) != 4:
        raise TypeError(f"build must return (trunk, tasks, batch, optimizer or None), found {type(parts).__name__}")
    trunk, tasks, batch, optimizer = parts[0], parts[1], parts[2], steppable(parts[3])
    tensors = [p for module in modules_of(trunk, *tasks.values()) for p in module.parameters(recurse=False)]
    tensors += [p for group in (optimizer.param_groups if optimizer else []) for p in group["params"]]
    if not all(isinstance(tensor, FakeTensor) for tensor in tensors):
        raise TypeError("build must make the network itself, found parameters from outside; make them in the function")
    return trunk, tasks, batch, optimizer


@contextmanager
def _in_words(unknown: Unknowns) -> Iterator[None]:
    """Say what fails for want of data; everything else, an edition's refusal too, passes as it is."""
    try:
        yield
    except ForeignParameterError as error:
        raise TypeError(str(error)) from None
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise PredictionError(_without_values("shapes depend on values", error, unknown)) from None
    except (RuntimeError, TypeError, ArithmeticError, IndexError) as error:
        if not _for_want_of_data(error, unknown):
            raise
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise PredictionError(
            _without_values(f"the step does not run on tensors without data ({reason})", error, unknown)
        ) from None


def _without_values(what: str, error: Exception, unknown: Unknowns) -> str:
    """Say what failed, in which part of the network and where in its code, and what to do."""
    place = place_of(error)
    return (
        f"{unknown.place or 'the network'}: {what}{f' at {place}' if place else ''}; put network and batch on the "
        "device for plan to measure there, measure with compare instead, or multiply by a mask in place of selecting"
    )


def _for_want_of_data(error: Exception, unknown: Unknowns) -> bool:
    """Whether torch says so, or may have been given sizes that are values and were made up (`x.split(n.tolist())`)."""
    if isinstance(error, ArithmeticError) or any(hint in str(error) for hint in _FOR_WANT_OF_DATA):
        return True
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    refused = frames[-1].startswith("mtl_accum.editions")
    return bool(unknown.values) and not isinstance(error, TypeError) and not refused


@contextmanager
def _no_host() -> Iterator[None]:
    """Let what goes to the host vanish: all that is counted here is on the device."""

    def forget(tensor: Tensor) -> Callable[[], Tensor]:
        shape, strides, dtype = tensor.shape, tensor.stride(), tensor.dtype
        return lambda: torch.empty_strided(shape, strides, dtype=dtype)

    token = TO_HOST.set(forget)
    try:
        yield
    finally:
        TO_HOST.reset(token)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging a page of traceback for an error that is raised anyhow."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
