"""Networks without data: every tensor only knows its shape; and what takes the place of the values."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakTensorKeyDictionary

from mtl_accum.editions import modules_of
from mtl_accum.editions._engine import Kind, share_modules
from mtl_accum.prediction._stand_ins import STAND_INS
from mtl_accum.prediction._upper_bounds import UPPER_BOUNDS

__all__ = ["CLOSURES", "ForeignParameterError", "OnCpu", "Unknowns", "fake_copy"]

CLOSURES = "a closure's modules cannot be copied; pass modules (Task, MultiTaskModel), or build="


def fake_copy(
    mode: FakeTensorMode, trunk: Any, tasks: Mapping[str, Any], batch: Any, optimizer: Any
) -> tuple[Any, dict[str, Any], Any, Any]:
    """Copy all four, with what they share still shared, without copying any data.

    Every fake tensor is on the CPU, wherever the real one is (the meta device too): autograd aborts the process
    on fake tensors of a device that is not there.

    Raises:
        TypeError: a callable keeps its modules in a closure; or a module is lazy and has no shapes yet.
    """
    functions: list[Callable[..., Any]] = [trunk, *tasks.values()]
    memo: dict[int, Any] = {}

    def put(tensor: Tensor) -> None:
        if id(tensor) not in memo:
            memo[id(tensor)] = _fake(mode, tensor)

    for module in modules_of(*functions):
        for name, tensor in (*module._parameters.items(), *module._buffers.items(), *vars(module).items()):
            if is_lazy(tensor):
                raise TypeError(
                    f"{type(module).__name__}.{name} is lazy: run the model once, so that it gets its shape"
                )
            if isinstance(tensor, Tensor):
                put(tensor)
    if optimizer is not None:
        for value in tree_iter([[group["params"] for group in optimizer.param_groups], list(optimizer.state.values())]):
            if isinstance(value, Tensor):
                put(value)
    for value in tree_iter(batch):
        if isinstance(value, Tensor):
            put(value)
    try:
        copied: tuple[Any, dict[str, Any], Any, Any] = copy.deepcopy((trunk, dict(tasks), batch, optimizer), memo)
    except Exception as error:  # whatever the objects' own copying raises
        raise TypeError(f"trunk, tasks, batch and optimizer cannot be copied ({error}); pass build= instead") from error
    if share_modules(functions, (copied[0], *copied[1].values())):
        raise TypeError(CLOSURES)
    return copied


class ForeignParameterError(RuntimeError):
    """A real parameter came along; not a TypeError, which operators like * take for "try the other operand"."""


class OnCpu(TorchFunctionMode):
    """Takes code that names a CUDA device to the CPU: `x.cuda()`, `x.to("cuda")`, `torch.zeros(3, device="cuda")`."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch's."""
        if func is Tensor.cuda:
            return args[0]
        if func is Tensor.to:
            args = (args[0], *(_here(value) for value in args[1:]))
        if kwargs and "device" in kwargs:
            kwargs = {**kwargs, "device": _here(kwargs["device"])}
        return func(*args, **(kwargs or {}))


_MOST_READS = 10_000
_COMPARISONS = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_IN_MAP = {"mse_loss", "smooth_l1_loss", "binary_cross_entropy", "soft_margin_loss"}


class Unknowns(TorchDispatchMode):
    """Answers for what tensors without data cannot say, and remembers what that leaves uncertain.

    A value that is read is 1, and where it is compared with a number first, what 1 would be. Everything is on the CPU,
    whatever device was asked for. Where a fake operator's result is not stored as its kernel stores it, it is here: the
    means of some losses live in the storage of their element-wise map, and group normalisation with float32 weights
    keeps float32 statistics.

    Attributes:
        seen: the names of the operators that ran.
        place: The part of the network whose forward began last: "the trunk", "task 'depth'".
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()
        self._compared = WeakTensorKeyDictionary()
        self._phase: str = ""
        self._masked: set[str] = set()
        self.place = ""
        self._reads = {"": 0, "forward": 0, "backward": 0, "optimizer": 0, "zero_grad": 0}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Leave the user's compiled code as it is."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, or answer in its place."""
        name = func.overloadpacket.__name__
        self.seen.add(name)
        if name == "_local_scalar_dense" and isinstance(args[0], FakeTensor):
            return self._compared.get(args[0], self._read(args[0].dtype))
        for value in args:
            if isinstance(value, Tensor) and value.requires_grad and not isinstance(value, FakeTensor):
                raise ForeignParameterError(
                    f"a parameter of shape {tuple(value.shape)} belongs to no module: {CLOSURES}"
                )
        if kwargs and "device" in kwargs:
            kwargs = {**kwargs, "device": _here(kwargs["device"])}
        if name in STAND_INS and isinstance(args[0], FakeTensor):
            return STAND_INS[name](func, *args, **(kwargs or {}))
        out = self._bounded(name, func, args, kwargs or {})
        if name in _COMPARISONS and out.numel() == 1 and isinstance(args[1], int | float):
            self._compared[out] = _COMPARISONS[name](1, args[1])
        if name in _IN_MAP and out.dim() == 0:
            return out.new_empty(torch.broadcast_shapes(args[0].shape, args[1].shape)).as_strided((), ())
        if name == "native_group_norm" and args[1] is not None and args[1].dtype is torch.float32:
            return out[0], out[1].float(), out[2].float()
        return out

    def _bounded(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator; where the size of its result depends on values, return one as large as it can be."""
        bound = UPPER_BOUNDS.get(name)
        if bound is not None and isinstance(args[0], FakeTensor):
            out = bound(func, *args, **kwargs)
            if out is not NotImplemented:
                self._masked.add(self.place or "the trunk or a task")
                return out
        return func(*args, **kwargs)

    def begin(self, name: str, kind: Kind) -> None:
        """A phase begins: values that the optimizer reads are its step counters."""
        self._phase = kind
        if kind == "forward":
            self.place = f"task {name.removeprefix('head ')!r}" if name.startswith("head ") else f"the {name}"

    def end(self) -> None:
        """It is over: values read between phases are counts."""
        self._phase = ""

    def forget(self) -> None:
        """Begin anew."""
        self.seen = set()
        self._reads = dict.fromkeys(self._reads, 0)

    @property
    def values(self) -> int:
        """How many values of tensors the network read in the latest step."""
        return self._reads["forward"] + self._reads["backward"]

    def bounds(self) -> list[str]:
        """Say where a result was taken to be as large as it can be, in any step so far."""
        if not self._masked:
            return []
        places = ", ".join(sorted(self._masked))
        return [
            f"an upper bound: shapes depend on values in {places} (out[mask], nonzero, unique), and every mask was "
            "taken to be true everywhere"
        ]

    def caveats(self, *, counted: bool) -> list[str]:
        """What a reader must know.

        Args:
            counted: the whole batch's counts are known, and only its pieces' were made up.
        """
        found = self.bounds()
        if self.values:
            found.append(
                f"the network read {self.values} values of tensors (.item(), float(...), if ...), which are not known "
                "without data and were taken to be 1: where memory depends on them, measure"
            )
        if self._reads[""] and not counted:
            found.append("counts are not known without data: every task whose target is there is taken to be present")
        return found

    def _read(self, dtype: torch.dtype) -> bool | int | float:
        self._reads[self._phase] += 1
        if self._reads[self._phase] > _MOST_READS:
            raise RuntimeError(f"FakeTensor: more than {_MOST_READS} values were read, perhaps until one changes")
        return _one(dtype)


def _fake(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        fake: Tensor = mode.from_tensor(tensor.detach())
    else:
        with mode:
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(fake, tensor.requires_grad)
    return fake.requires_grad_(tensor.requires_grad)


def _here(device: Any) -> Any:
    """The CPU in place of a CUDA device, by its name or number; anything else as it is."""
    numbered = isinstance(device, int) and not isinstance(device, bool)
    named = numbered or (isinstance(device, str | torch.device) and str(device).startswith("cuda"))
    return torch.device("cpu") if named else device


def _one(dtype: torch.dtype) -> bool | int | float:
    if dtype is torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1
