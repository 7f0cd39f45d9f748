"""Operator times on an absent device, estimated from floating-point operations and bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mtl_accum._torch_pytree import tree_iter
from mtl_accum.editions import TO_HOST

__all__ = ["OperationCounter"]

# A current data-centre GPU, in round figures. They only enter ratios between schedules.
_OPERATIONS_PER_SECOND = 100e12  # dense matrix products, tensor cores, as networks reach them
_BYTES_PER_SECOND = 2e12  # device memory
_BYTES_TO_HOST = 20e9  # a second, each way
_LAUNCH = 5e-6  # seconds to launch a kernel


_ToHost = Callable[[Tensor], Callable[[], Tensor]]


class OperationCounter(TorchDispatchMode):
    """Adds up the time of every operator inside its block by the roofline model.

    An operator takes 5 us for its launch, and the longer of two times: its floating-point operations at 100 TFLOP/s and
    its bytes read and written at 2 TB/s. Operations are counted by `torch.utils.flop_counter`, for products,
    convolutions and attention. Views are free. Tensors that `Offloaded` moves to the host take 20 GB/s each way.

    Reference: Williams, Waterman and Patterson (2009), Roofline: An Insightful Visual Performance Model for Multicore
    Architectures.

    Attributes:
        seconds: Seconds of all operators so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = 0.0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled code run compiled."""
        return True

    def __enter__(self) -> Self:
        """Start counting operators and transfers to the host."""
        self._token = TO_HOST.set(self._timed(TO_HOST.get()))
        return super().__enter__()  # type: ignore[no-any-return,no-untyped-call]

    def __exit__(self, *exception: object) -> None:
        """Stop counting."""
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        TO_HOST.reset(self._token)

    def _timed(self, to_host: _ToHost) -> _ToHost:
        """Return a transfer to the host that adds the seconds of both ways."""

        def transfer(tensor: Tensor) -> Callable[[], Tensor]:
            seconds = tensor.nbytes / _BYTES_TO_HOST
            self.seconds += seconds
            fetch = to_host(tensor)

            def timed_fetch() -> Tensor:
                self.seconds += seconds
                return fetch()

            return timed_fetch

        return transfer

    def now(self) -> float:
        """Return the seconds so far: a clock for `Profile`."""
        return self.seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator and add its time."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            moved = sum(
                leaf.numel() * leaf.element_size() for leaf in tree_iter((args, out)) if isinstance(leaf, Tensor)
            )
            count: Callable[..., Any] | None = flop_registry.get(func.overloadpacket)
            operations = 0 if count is None else count(*args, **(kwargs or {}), out_val=out)
            self.seconds += max(operations / _OPERATIONS_PER_SECOND, moved / _BYTES_PER_SECOND) + _LAUNCH
        return out
