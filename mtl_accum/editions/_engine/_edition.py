"""The base class of editions, and the adapter for classes that only have `forward_backward`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final, runtime_checkable

from torch import Tensor

from mtl_accum.editions._engine._types import Tasks, Trunk
from mtl_accum.editions._engine.batch._cutting import Range

__all__ = ["Edition", "EditionLike", "OnlyForwardBackward", "require_edition", "require_editions"]


@runtime_checkable
class EditionLike(Protocol):
    """Anything with a `forward_backward`; `require_edition` makes an `Edition` of it."""

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`."""
        ...


class Edition(ABC):
    """A way to compute the gradient of the summed loss; the field also says backward schedule.

    Derive from `Schedule` in place of this class for an edition that has a `loss` too.

    Attributes:
        leaves_gradients: Whether gradients are in `.grad` after a call; False where the optimizer steps inside of the
            backward.
        config_group: Name of the edition's file in `conf/edition`; empty for an edition that has none.
    """

    leaves_gradients: ClassVar[bool] = True
    config_group: ClassVar[str] = ""

    @abstractmethod
    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """Add d(sum of the losses)/d(theta) to every `.grad`, as `sum(losses).backward()` would.

        Args:
            trunk: Function from the batch to a representation: any pytree of tensors.
            tasks: By name, functions of the representation and the batch that return a 0-dim loss: a mean. Its
                denominator is `task.count(batch)` where the task has a `count`, else the number of samples. A task
                whose count is 0 is absent: it is not called, its parameters' `.grad` stays as it was, and its returned
                loss is 0.
            batch: Any pytree; passed to the trunk and to the tasks as it is.

        Returns:
            The tasks' own losses, detached, in the tasks' order.

        Raises:
            TypeError: The trunk or a task cannot be called, or is wrapped in DistributedDataParallel; tasks is no
                mapping; a loss is not a tensor, a count is not a number, or a container is unknown.
            ValueError: There is no task; a loss has more than one element or dimension; or a count is negative or
                NaN.
            RuntimeError: Gradients are disabled; or from autograd, with the task's name and the likely fix.

        Warns:
            UserWarning: No task is present in the batch, so nothing runs; once for these tasks. Or: there are several
                processes, and the gradients are those of this process; once.

        After an exception `.grad` is unspecified (call `zero_grad`), and buffers are as before the call.
        """

    @property
    def inner(self) -> Edition | None:
        """The edition that this one wraps; None for one that wraps none."""
        return None

    @property
    def summary(self) -> str:
        """One sentence for tables: the first of the class's docstring."""
        kind = class_of(self)
        return (kind.__doc__ or kind.__name__).strip().partition("\n")[0]

    def cuts(self, samples: int) -> list[Range]:
        """Return the slices of a batch of that many samples whose counts this edition needs in advance.

        By default those of the edition inside, and none without one.
        """
        return [] if self.inner is None else self.inner.cuts(samples)

    def passes(self, samples: int) -> tuple[Any, ...]:
        """Return the numbers of passes over a batch of that many samples; empty where no batch is ever cut.

        By default those of the edition inside. Ranks whose passes are collective must have equal numbers.
        """
        return () if self.inner is None else self.inner.passes(samples)


@final
@dataclass(frozen=True)
class OnlyForwardBackward(Edition):
    """Adapter: a user's class with nothing but `forward_backward`, as an `Edition`."""

    edition: EditionLike

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`."""
        return self.edition.forward_backward(trunk, tasks, batch)

    def __repr__(self) -> str:
        return repr(self.edition)


def class_of(edition: Edition) -> type:
    """Return the class of an edition, of an adapted one the user's."""
    return type(edition.edition if isinstance(edition, OnlyForwardBackward) else edition)


def require_edition(edition: object, name: str = "edition") -> Edition:
    """Return a value as an edition: itself, or an adapter around a user's class.

    Args:
        edition: Any value.
        name: Name of the argument in the message.

    Raises:
        TypeError: The value is a class, or has no `forward_backward`.
    """
    if isinstance(edition, Edition):
        return edition
    if isinstance(edition, type):
        raise TypeError(
            f"{name} must be an instance, found the class {edition.__name__}; call it: {edition.__name__}(...)"
        )
    if not isinstance(edition, EditionLike):
        raise TypeError(f"{name} must have forward_backward, found {edition!r}; e.g. Split()")
    return OnlyForwardBackward(edition)


def require_editions(editions: object) -> dict[str, Edition]:
    """Return a mapping from names to editions, each as `require_edition` returns it.

    Raises:
        TypeError: The value is no mapping, or one of its values is no edition.
    """
    if not isinstance(editions, Mapping):
        raise TypeError(
            f"editions must be a mapping from names to editions, found {type(editions).__name__}; "
            'e.g. {"split": Split()}'
        )
    return {name: require_edition(edition, f"editions[{name!r}]") for name, edition in editions.items()}
