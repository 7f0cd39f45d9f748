"""Gradients computed early, and attached to a loss for a backward that comes later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions._engine.batch._pieces import Range
from mtl_accum.editions._engine.graph._autocast import without_autocast
from mtl_accum.editions._engine.graph._scale import start_gradient
from mtl_accum.editions._engine.ranks._inside_fsdp import inside_forward

__all__ = ["SHORT", "Gradients", "Scale", "Sources", "Sum", "attach", "factor_of", "wide", "without_hooks"]

SHORT = (torch.bfloat16, torch.float16)

Scale = float | Tensor | Callable[[], float | Tensor]
Sources = Mapping[Tensor, tuple[Tensor, Range | None]]  # leaf -> the leaf that it is a slice of, and which samples


class Sum:
    """A sum of gradients that never writes into its terms.

    `torch.autograd.grad` may return one tensor for two leaves (`p + q`), or an expanded one (`z.sum()`).

    Args:
        wide: Whether gradients of 16 bit add up in float32.
    """

    def __init__(self, *, wide: bool = False) -> None:
        self.value: Tensor | None = None
        self._wide, self._own = wide, False

    def add(self, term: Tensor) -> None:
        """Add a gradient."""
        if self.value is None:
            self._own = self._wide and term.dtype in SHORT
            self.value = term.float() if self._own else term
        elif self._own:
            self.value = self.value.add_(term)  # the kernel widens the term
        elif self.value.is_sparse:  # which cannot take a dense term in place, nor on its right
            self.value = term + self.value
        else:
            self.value, self._own = self.value + term, not term.is_nested

    def add_slice(self, term: Tensor, samples: Range, like: Tensor) -> None:
        """Add a gradient of some of the samples of a tensor."""
        if self.value is None:
            dtype = torch.float32 if self._wide and term.dtype in SHORT else term.dtype
            self.value, self._own = torch.zeros_like(like, dtype=dtype, requires_grad=False), True
        self.value[slice(*samples)] += term

    def add_grad_of(self, leaf: Tensor) -> None:
        """Move the gradient over that a backward has just left in a leaf; a hook."""
        assert leaf.grad is not None
        term, leaf.grad = leaf.grad, None
        if self.value is None and not (self._wide and term.dtype in SHORT):
            self.value, self._own = term, not term.is_nested  # autograd gives it away
        else:
            self.add(term)


class Gradients:
    """The gradient of one loss, or of several together, by the leaves that their graphs end in.

    Memory: one tensor as large as each leaf. `add_loss` frees the graph that it reads.

    Args:
        scale: Factor of the gradients until the backward divides it out, as fp16 would lose small ones; None for 1.

    Attributes:
        unscaled: Whether there is no factor.
    """

    def __init__(self, scale: float | Tensor | None = None) -> None:
        self._scale, self.unscaled = scale, scale is None
        self._sums: dict[Tensor, Sum] = {}
        self._moved: list[tuple[Tensor, Tensor]] = []  # gradients and the tensors behind the leaves

    def add_loss(self, loss: Tensor, leaves: Sequence[Tensor], sources: Sources) -> None:
        """Add the gradient of a loss, and free its graph.

        Args:
            loss: 0-dim tensor with a graph.
            leaves: Leaves of the graph; see `walk`.
            sources: For a leaf that is a slice of another one, that one and the slice.
        """
        start = torch.ones_like(loss) if self._scale is None else start_gradient(loss, self._scale)
        with without_autocast(), without_hooks(leaves), inside_forward():
            gradients = torch.autograd.grad(loss, leaves, start, allow_unused=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                self.add(leaf, gradient, sources)

    def add(self, leaf: Tensor, gradient: Tensor, sources: Sources) -> None:
        """Add the gradient of a leaf."""
        whole, samples = sources.get(leaf, (leaf, None))
        total = self._sums.get(whole)
        if total is None:
            total = self._sums[whole] = Sum(wide=leaf in sources)
        if samples is None:
            total.add(gradient)
        else:
            total.add_slice(gradient, samples, whole)

    def move_to(self, roots: Mapping[Tensor, Tensor]) -> None:
        """Move the gradients of leaves to the tensors that the leaves were detached from."""
        for leaf, root in roots.items():
            total = self._sums.pop(leaf, None)
            if total is not None and total.value is not None:
                self._moved.append((total.value.to(root.dtype), root))

    def attach(self, value: Tensor) -> Tensor:
        """Return a value with these gradients attached; only the result holds them afterwards."""
        pairs, self._moved = self._moved, []
        pairs += [(total.value, leaf) for leaf, total in self._sums.items() if total.value is not None]
        self._sums.clear()
        return attach(value, pairs, self._scale)


def attach(
    value: Tensor,
    pairs: list[tuple[Tensor, Tensor]],
    scale: float | Tensor | None = None,
    *,
    disposable: bool = False,
) -> Tensor:
    """Return a 0-dim value whose backward adds to each tensor the gradient that comes with it.

    A chain of nodes, one per tensor: each product is handed over before the next one is computed, so the peak is 1.1
    times the gradients instead of 2. Small tensors share a node.

    Args:
        value: 0-dim tensor; its own graph is not part of the result.
        pairs: Gradients and tensors; emptied.
        scale: Factor that the gradients contain already.
        disposable: Whether nothing else uses the gradients, so the last backward may multiply them in place.
    """
    divisor = 1.0 if scale is None else scale
    value = value.detach()
    if not pairs:
        nothing: Tensor = _Nothing.apply(value, torch.zeros((), requires_grad=True))  # type: ignore[no-untyped-call]
        return nothing
    for group in _together(pairs):
        gradients, tensors = zip(*group, strict=True)
        value = _Attached.apply(value, divisor, disposable, len(group), *gradients, *tensors)  # type: ignore[no-untyped-call]
    return value


_SMALL = 65536  # bytes that a node may hold twice for a moment


def _together(pairs: list[tuple[Tensor, Tensor]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Pop the pairs from the list, in groups that are small, or of one pair."""
    pairs.reverse()
    while pairs:
        group, size = [pairs.pop()], 0
        while pairs and size <= _SMALL:
            size += sum(gradient.numel() * gradient.element_size() for gradient, _ in (group[-1], pairs[-1]))
            if size <= _SMALL:
                group.append(pairs.pop())
        yield group


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which gradients of a dtype add up: float32 for 16 bit."""
    return torch.float32 if dtype in SHORT else dtype


def factor_of(scale: Scale | None) -> float | Tensor | None:
    """Return the number that a scale stands for.

    Raises:
        TypeError: The scale is neither a number, a tensor of one element, nor a callable that returns one.
        ValueError: The number is not greater than 0.
    """
    if scale is None:
        return None
    factor = scale() if callable(scale) else scale
    if isinstance(factor, Tensor) and factor.numel() == 1 and not factor.is_complex():
        if factor.device.type != "cpu":  # reading the value would synchronise
            return factor.detach().reshape(())
        factor = factor.item()
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        raise TypeError(
            "scale must be a number, a 0-dim tensor, or a callable that returns one (scaler.get_scale); "
            f"found {scale!r}"
        )
    if not 0 < factor < float("inf"):
        raise ValueError(f"scale must be a finite number greater than 0, found {factor}")
    return factor


@contextmanager
def without_hooks(leaves: Sequence[Tensor]) -> Iterator[None]:
    """Disable the hooks of leaves, which belong to the backward that the caller runs later."""
    hooked = [(leaf, hooks) for leaf in leaves if (hooks := leaf._backward_hooks)]
    for leaf, _ in hooked:
        leaf._backward_hooks = None
    try:
        yield
    finally:
        for leaf, hooks in hooked:
            leaf._backward_hooks = hooks


class _Attached(torch.autograd.Function):
    """A value with the gradients of some tensors: its backward multiplies them by the incoming gradient."""

    generate_vmap_rule = True  # a batched backward, which TorchJD runs by default

    @staticmethod
    def forward(value: Tensor, scale: Any, disposable: bool, count: int, *gradients_and_tensors: Tensor) -> Tensor:
        """Return a copy of the value."""
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the gradients."""
        _, ctx.scale, ctx.disposable, ctx.count, *gradients_and_tensors = inputs
        ctx.save_for_backward(*gradients_and_tensors[: ctx.count])

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, scaled."""
        (start,) = incoming
        if torch.is_grad_enabled():
            raise RuntimeError(
                "fold, loss: expected a backward without create_graph=True; the gradient was computed in the forward, "
                "and its own graph is gone, so it cannot be differentiated again. For a gradient penalty or a "
                "Hessian use the plain loss, or SummedLoss"
            )
        factor = start / ctx.scale
        times = _times_in_place if ctx.disposable and _is_last_backward(start) else _times
        gradients = [times(gradient, factor) for gradient in ctx.saved_tensors]
        return start, None, None, None, *[None] * ctx.count, *gradients


def _times(gradient: Tensor, factor: Tensor) -> Tensor:
    dtype = gradient.dtype if gradient.dtype.is_complex else factor.dtype
    return gradient * factor.to(gradient.device, dtype)  # a loss may be on another device than a head


def _times_in_place(gradient: Tensor, factor: Tensor) -> Tensor:
    return gradient.mul_(factor.to(gradient.device))


def _is_last_backward(start: Tensor) -> bool:
    """Return whether the current backward frees its graph; a batched one may not write in place."""
    functorch = torch._C._functorch
    batched = functorch.is_batchedtensor(start) or functorch.is_legacy_batchedtensor(start)
    return not batched and not torch._C._autograd._get_current_graph_task_keep_graph()


class _Nothing(torch.autograd.Function):
    """A value whose backward runs and reaches no leaf."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, anchor: Tensor) -> Tensor:
        """Return a copy of the value."""
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, None]:
        """Return no gradients."""
        return None, None
