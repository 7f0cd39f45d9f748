"""What operators cost on a device that is not there: by floating-point operations and bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from mtl_accum.editions import TO_HOST

__all__ = ["OperationCounter"]

# A data-centre GPU of today, in round figures. Only ratios between schedules are made of them.
_OPERATIONS_PER_SECOND = 100e12  # dense matrix products, tensor cores, as networks reach them
_BYTES_PER_SECOND = 2e12  # device memory
_BYTES_TO_HOST = 20e9  # a second, each way
_LAUNCH = 5e-6  # seconds to launch a kernel


_ToHost = Callable[[Tensor], Callable[[], Tensor]]


class OperationCounter(TorchDispatchMode):
    """Adds up the time that every operator inside its block would take by the roofline model.

    An operator takes the longer of its floating-point operations (counted for products, convolutions and attention by
    `torch.utils.flop_counter`) at 100 TFLOP/s and its bytes read and written at 2 TB/s, and 5 us to be launched. Views
    are free. What `Offloaded` sends to the host takes its time at 20 GB/s there, and back.

    Reference: Williams, Waterman and Patterson (2009), Roofline: An Insightful Visual Performance Model for Multicore
    Architectures.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = 0.0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Leave the user's compiled code as it is."""
        return True

    def __enter__(self) -> Self:
        """Begin."""
        self._host = TO_HOST.set(self._timed(TO_HOST.get()))
        return super().__enter__()  # type: ignore[no-any-return,no-untyped-call]

    def __exit__(self, *exception: object) -> None:
        """End."""
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        TO_HOST.reset(self._host)

    def _timed(self, to_host: _ToHost) -> _ToHost:
        def there(tensor: Tensor) -> Callable[[], Tensor]:
            way = tensor.nbytes / _BYTES_TO_HOST
            self.seconds += way
            back = to_host(tensor)

            def and_back() -> Tensor:
                self.seconds += way
                return back()

            return and_back

        return there

    def now(self) -> float:
        """A clock that runs by operators."""
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
