"""Data dependence of a step on tensors without data: values that are assumed, shapes that are bounded."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from mtl_accum.editions._engine import Kind
from mtl_accum.prediction._fake_copy import CLOSURES
from mtl_accum.prediction._known_shapes import KNOWN_SHAPES
from mtl_accum.prediction._upper_bounds import UPPER_BOUNDS

__all__ = ["CudaOnCpu", "DataDependenceTracker", "ForeignParameterError"]

_MOST_READS = 10_000
_COMPARISONS = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_MEANS_IN_MAP = {"mse_loss", "smooth_l1_loss", "binary_cross_entropy", "soft_margin_loss"}


class ForeignParameterError(RuntimeError):
    """A real parameter takes part in the step; not a TypeError, for which operators like * try the other operand."""


class CudaOnCpu(TorchFunctionMode):
    """Runs code for a CUDA device on the CPU: `x.cuda()`, `x.to("cuda")`, `torch.zeros(3, device="cuda")`."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch with the CPU in place of a CUDA device."""
        if func is Tensor.cuda:
            return args[0]
        if func is Tensor.to:
            args = (args[0], *(_cpu_for_cuda(value) for value in args[1:]))
        if kwargs and "device" in kwargs:
            kwargs = {**kwargs, "device": _cpu_for_cuda(kwargs["device"])}
        return func(*args, **(kwargs or {}))


class DataDependenceTracker(TorchDispatchMode):
    """Replaces results that tensors without data do not have, and records the uncertainty that follows.

    - A value that is read is 1. If the tensor is the result of a comparison with a number, it is that of 1.
    - A result whose size depends on values is as large as it can be, see `UPPER_BOUNDS`.
    - Code that names a CUDA device runs on the CPU.
    - Where a fake operator's storage differs from the kernel's, the result has the kernel's: the means of some losses
      are stored in their element-wise map, and group normalisation with float32 weights keeps float32 statistics.

    Attributes:
        operators: Names of the operators that ran since the last `reset`.
        place: Part of the network whose forward began last: "the trunk", "task 'depth'".
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: set[str] = set()
        self.place = ""
        self._comparisons = WeakTensorKeyDictionary()
        self._kind: str = ""  # of the phase that runs
        self._bounded_places: set[str] = set()
        self._reads = {"": 0, "forward": 0, "backward": 0, "optimizer": 0, "zero_grad": 0}  # by kind of phase

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled code run compiled."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, or return a result in its place.

        Raises:
            ForeignParameterError: An argument is a real parameter.
            RuntimeError: Too many values were read.
        """
        name = func.overloadpacket.__name__
        self.operators.add(name)
        if name == "_local_scalar_dense" and isinstance(args[0], FakeTensor):
            return self._comparisons.get(args[0], self._read(args[0].dtype))
        for value in args:
            if isinstance(value, Tensor) and value.requires_grad and not isinstance(value, FakeTensor):
                raise ForeignParameterError(
                    f"a parameter of shape {tuple(value.shape)} belongs to no module: {CLOSURES}"
                )
        if kwargs and "device" in kwargs:
            kwargs = {**kwargs, "device": _cpu_for_cuda(kwargs["device"])}
        if name in KNOWN_SHAPES and isinstance(args[0], FakeTensor):
            return KNOWN_SHAPES[name](func, *args, **(kwargs or {}))
        out = self._run_bounded(name, func, args, kwargs or {})
        if name in _COMPARISONS and out.numel() == 1 and isinstance(args[1], int | float):
            self._comparisons[out] = _COMPARISONS[name](1, args[1])
        if name in _MEANS_IN_MAP and out.dim() == 0:
            return out.new_empty(torch.broadcast_shapes(args[0].shape, args[1].shape)).as_strided((), ())
        if name == "native_group_norm" and args[1] is not None and args[1].dtype is torch.float32:
            return out[0], out[1].float(), out[2].float()
        return out

    def begin(self, name: str, kind: Kind) -> None:
        """Note the kind of a phase, and its part if it is a forward."""
        self._kind = kind
        if kind == "forward":
            self.place = f"task {name.removeprefix('head ')!r}" if name.startswith("head ") else f"the {name}"

    def end(self) -> None:
        """Note the end of a phase; values that are read between phases are counts."""
        self._kind = ""

    def reset(self) -> None:
        """Forget operators and reads; bounds stay."""
        self.operators = set()
        self._reads = dict.fromkeys(self._reads, 0)

    @property
    def values(self) -> int:
        """Number of values that the network itself read since the last `reset`."""
        return self._reads["forward"] + self._reads["backward"]

    def bounds(self) -> list[str]:
        """Return a caveat if some result had its upper bound in any step so far."""
        if not self._bounded_places:
            return []
        places = ", ".join(sorted(self._bounded_places))
        return [
            f"an upper bound: shapes depend on values in {places} (out[mask], nonzero, unique), and every mask was "
            "taken to be true everywhere"
        ]

    def caveats(self, *, counted: bool) -> list[str]:
        """Return the caveats of the latest step.

        Args:
            counted: Whether the counts of the whole batch are known, and only those of its pieces are assumed.
        """
        caveats = self.bounds()
        if self.values:
            caveats.append(
                f"the network read {self.values} values of tensors (.item(), float(...), if ...), which are not known "
                "without data and were taken to be 1: where memory depends on them, measure"
            )
        if self._reads[""] and not counted:
            caveats.append("counts are not known without data: every task with a target is taken to be present")
        return caveats

    def _run_bounded(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator; return a result of the largest size where its size depends on values."""
        bound = UPPER_BOUNDS.get(name)
        if bound is not None and isinstance(args[0], FakeTensor):
            out = bound(func, *args, **kwargs)
            if out is not NotImplemented:
                self._bounded_places.add(self.place or "the trunk or a task")
                return out
        return func(*args, **kwargs)

    def _read(self, dtype: torch.dtype) -> bool | int | float:
        """Count a read, and return 1 in a dtype's Python type."""
        self._reads[self._kind] += 1
        if self._reads[self._kind] > _MOST_READS:
            raise RuntimeError(f"FakeTensor: more than {_MOST_READS} values were read, perhaps until one changes")
        if dtype is torch.bool:
            return True
        return 1.0 if dtype.is_floating_point else 1


def _cpu_for_cuda(device: Any) -> Any:
    """Return the CPU for a CUDA device, given by name or number; any other value unchanged."""
    numbered = isinstance(device, int) and not isinstance(device, bool)
    named = numbered or (isinstance(device, str | torch.device) and str(device).startswith("cuda"))
    return torch.device("cpu") if named else device
