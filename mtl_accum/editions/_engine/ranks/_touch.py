"""Absent heads on several ranks: zeros in place of their gradients, and their share of FSDP2's collectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtl_accum.editions._engine._modules import modules_of, named_modules_of, tensors_of
from mtl_accum.editions._engine.batch._pytree import leaves
from mtl_accum.editions._engine.graph._walk import walk
from mtl_accum.editions._engine.ranks._under_ddp import tolerates_unused

__all__ = ["is_sharded", "run_with_others", "touch"]

Task = Callable[[Any, Any], Tensor]


def touch(task: Task, representation: Any, _batch: Any = None) -> Tensor:
    """Take part in a task that is absent on this rank and present on another, without running it.

    DDP waits for a gradient of every parameter, and all ranks call the modules of FSDP2 together, which gather
    parameters and reduce gradients. Modules of `fully_shard` in the task are called in the order of their registration,
    with a forward that only reads their parameters, and without the hooks of others.

    Args:
        task: Function of the representation and the batch.
        representation: Any container of tensors.
        _batch: Not used, so this can take a task's place.

    Returns:
        A 0-dim zero. Its backward gives zeros to the representation and to every parameter of the task that requires
        a gradient. The zeros are expanded, so they take no memory.
    """
    parts = _Parts(task)
    given = [leaf for leaf in leaves(representation) if isinstance(leaf, Tensor)]
    zero = _zero([*given, *parts.outside], like=given or parts.outside)
    for module in parts.outermost:
        zero = _pass(module, zero)
    return zero


def run_with_others(name: str, task: Task, weighted: Task, representation: Any, batch: Any) -> Tensor:
    """Run a task that is present on this rank while another rank calls `touch` for it.

    Parameters of the task and tensors of the representation that the loss does not reach get zeros, as on the other
    rank: both reduce gradients of the same parameters.

    Args:
        name: Name of the task in messages.
        task: Function of the representation and the batch.
        weighted: Function to call: the task, or the task times its weight.
        representation: Any container of tensors.
        batch: Any container.

    Returns:
        The task's loss.

    Raises:
        RuntimeError: The other rank cannot take part: sharded modules of the task do not run once each in the order of
            their registration, or the loss trains a tensor that cannot be found from outside of the task.
    """
    parts = _Parts(task)
    expected = list(_with_nested(parts.outermost))
    loss: Any
    with _recording(expected) as (order, inside):
        loss = weighted(representation, batch)
    if list(map(id, order)) != list(map(id, expected)):
        raise RuntimeError(_other_order(name, task, expected, order))
    if not isinstance(loss, Tensor):
        return cast("Tensor", loss)  # the caller raises
    given = [leaf for leaf in leaves(representation) if isinstance(leaf, Tensor) and leaf.requires_grad]
    known = [*parts.outside, *inside, *given]
    graph = walk([loss] if loss.requires_grad else [])
    reached = {id(leaf): leaf for leaf in graph.leaves}
    hidden = reached.keys() - {id(tensor) for tensor in (*known, *walk(given).leaves)}
    if hidden and not tolerates_unused():
        raise RuntimeError(_hidden(name, reached[hidden.pop()]))
    missing = [tensor for tensor in known if id(tensor) not in reached and tensor.grad_fn not in graph.nodes]
    return loss + _zero(missing, like=[loss]).to(loss.dtype) if missing else loss


def is_sharded(*functions: Callable[..., Any]) -> bool:
    """Return whether some callables reach a module of `fully_shard`, whose passes are collective."""
    return bool(_outermost(modules_of(*functions)))


class _Parts:
    """The parameters of a task, and the modules in it that `fully_shard` was called on.

    Attributes:
        outermost: The sharded modules that are in no other one.
        outside: The leaf tensors that require a gradient and belong to no sharded module.
    """

    def __init__(self, task: Task) -> None:
        modules = modules_of(task)
        self.outermost = _outermost(modules)
        sharded = {id(module) for root in self.outermost for module in root.modules()}
        own = [p for module in modules if id(module) not in sharded for p in module._parameters.values()]
        tensors = [*own, *(tensor for tensor in tensors_of(task) if tensor.is_leaf)]
        self.outside: list[Tensor] = list({id(t): t for t in tensors if t is not None and t.requires_grad}.values())


def _outermost(modules: Iterable[nn.Module]) -> list[nn.Module]:
    from torch.distributed.fsdp import FSDPModule

    outermost: list[nn.Module] = []
    inside: set[int] = set()
    for module in modules:
        if isinstance(module, FSDPModule) and id(module) not in inside:
            outermost.append(module)
            inside |= {id(below) for below in module.modules()}
    return outermost


def _below(module: nn.Module) -> list[nn.Module]:
    return _outermost(below for below in module.modules() if below is not module)


def _with_nested(outermost: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield sharded modules in the order in which their forwards begin."""
    for module in outermost:
        yield module
        yield from _with_nested(_below(module))


def _own(module: nn.Module) -> list[Tensor]:
    """Return the parameters of a sharded module that are in none of those inside of it."""
    others = {id(part) for below in _below(module) for part in below.modules()}
    parts = (part for part in module.modules() if id(part) not in others)
    return [p for part in parts for p in part._parameters.values() if p is not None and p.requires_grad]


def _pass(module: nn.Module, tensor: Tensor) -> Tensor:
    """Call a sharded module, and those inside of it, with a forward that gives zeros to their parameters."""

    def forward(tensor: Tensor) -> Tensor:
        tensor = _zero([tensor, *_own(module)], like=[tensor])
        for below in _below(module):
            tensor = _pass(below, tensor)
        return tensor

    with _replaced(module, {"forward": forward, **_hooks_of_fsdp(module)}):
        result: Tensor = module._call_impl(tensor)  # without the replacement of module.compile()
    return result


_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def _hooks_of_fsdp(module: nn.Module) -> dict[str, Any]:
    return {
        name: type(hooks)((key, hook) for key, hook in hooks.items() if _is_of_fsdp(hook))
        for name in _HOOKS
        if (hooks := vars(module)[name])
    }


def _is_of_fsdp(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp.")


@contextmanager
def _replaced(module: nn.Module, attributes: dict[str, Any]) -> Iterator[None]:
    """Give a module other attributes of its instance inside the block."""
    own = vars(module)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)


@contextmanager
def _recording(modules: Sequence[nn.Module]) -> Iterator[tuple[list[nn.Module], list[Tensor]]]:
    """Collect which sharded modules begin to run inside the block, and their parameters while they are gathered."""
    order: list[nn.Module] = []
    inside: dict[int, Tensor] = {}

    def before(module: nn.Module, _: Any) -> None:
        order.append(module)
        inside.update((id(p), p) for p in _own(module))

    parameters: list[Tensor] = []
    handles = [module.register_forward_pre_hook(before) for module in modules]  # after FSDP's own, which is prepended
    try:
        yield order, parameters
    finally:
        parameters += inside.values()
        for handle in handles:
            handle.remove()


def _zero(tensors: Iterable[Tensor], like: Sequence[Tensor]) -> Tensor:
    """Return a 0-dim zero whose backward gives zeros to those of the tensors that require a gradient."""
    dtype = torch.float64 if any(t.dtype in (torch.float64, torch.complex128) for t in like) else torch.float32
    zero = torch.zeros((), dtype=dtype, device=like[0].device if like else None)
    tensors = [tensor for tensor in tensors if tensor.requires_grad]
    return _Zeros.apply(zero, *tensors) if tensors else zero  # type: ignore[no-untyped-call]


class _Zeros(torch.autograd.Function):
    """A zero that depends on tensors. Their gradients are not `0 * tensor`, which is NaN for infinities."""

    @staticmethod
    def forward(ctx: Any, zero: Tensor, *tensors: Tensor) -> Tensor:
        """Return the zero."""
        ctx.zeros = [_expanded(tensor) for tensor in tensors]
        return zero.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Return zeros."""
        return None, *(zeros() for zeros in ctx.zeros)


def _expanded(tensor: Tensor) -> Callable[[], Tensor]:
    """Return a function that makes zeros of a tensor's shape, in the memory of one number where possible."""
    if type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_nested:
        shape, dtype, device = tensor.shape, tensor.dtype, tensor.device
        return lambda: torch.zeros((), dtype=dtype, device=device).expand(shape)
    alike = tensor.detach()
    return lambda: torch.zeros_like(alike)


def _other_order(name: str, task: Task, expected: Sequence[nn.Module], order: Sequence[nn.Module]) -> str:
    names = {id(module): path or "itself" for path, module in named_modules_of(task)}

    def listed(modules: Sequence[nn.Module]) -> str:
        return ", ".join(names[id(module)] for module in modules) or "none"

    return (
        f"task '{name}': it is absent on another rank, which can take part in its collectives only if the task's "
        f"sharded modules run once each in the order of their registration; expected {listed(expected)}, ran "
        f"{listed(order)}. Call fully_shard on the head as a whole, and give tasks modules that they run "
        "(a function that refers to the whole model reaches all of it)"
    )


def _hidden(name: str, tensor: Tensor) -> str:
    return (
        f"task '{name}': it is absent on another rank, and its loss trains a tensor of shape {tuple(tensor.shape)} "
        "that cannot be found from outside of the task, so the other rank cannot give zeros for it; make it a "
        "parameter of a module that the task refers to"
    )
