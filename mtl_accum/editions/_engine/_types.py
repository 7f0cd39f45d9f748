"""The contract between an edition, the network and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

__all__ = ["Edition", "Tasks", "Trunk", "require_edition", "require_editions"]

Trunk = Callable[[Any], Any]  # batch -> representation
Tasks = Mapping[str, Callable[[Any, Any], Tensor]]  # name -> (representation, batch) -> 0-dim loss


class Edition(Protocol):
    """One way to compute the gradient of the summed loss; the field also says backward schedule."""

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """Add d(sum of the losses)/d(theta) to every `.grad`, as `sum(losses).backward()` would.

        Args:
            trunk: maps the batch to a representation: any pytree of tensors.
            tasks: by name, a function of the representation and the batch that returns a 0-dim loss: a mean.
                Its denominator is `task.count(batch)` where the task has a `count`, else the number of
                samples. A task whose count is 0 is absent: it is not called, its parameters' `.grad` stays
                as it was, and its returned loss is 0.
            batch: any pytree; handed to the trunk and to the tasks as it is.

        Returns:
            The tasks' own losses, detached, in the tasks' order.

        Raises:
            TypeError: the trunk or a task cannot be called, or is wrapped in DistributedDataParallel; tasks is no
                mapping; a loss is not a tensor, a count is not a number, or a container is unknown.
            ValueError: there is no task; a loss has more than one element or dimension; or a count is negative or
                NaN.
            RuntimeError: gradients are disabled; or from autograd, with the task's name and the likely fix.

        Warns:
            UserWarning: no task is present in the batch, so nothing runs; once for these tasks. Or: there are several
                processes, and the gradients are this one's; once.

        After an exception `.grad` is unspecified (call `zero_grad`), and buffers are as before the call.
        """
        ...


def require_edition(edition: object, name: str = "edition") -> None:
    """Raise TypeError unless a value is an edition, as far as can be seen: an instance, not its class.

    Args:
        edition: Any value.
        name: Name of the argument in the message.
    """
    if isinstance(edition, type):
        raise TypeError(
            f"{name} must be an instance, found the class {edition.__name__}; call it: {edition.__name__}(...)"
        )
    if not callable(getattr(edition, "forward_backward", None)):
        raise TypeError(f"{name} must have forward_backward, found {edition!r}; e.g. Split()")


def require_editions(editions: object) -> None:
    """Raise TypeError unless a value is a mapping from names to editions."""
    if not isinstance(editions, Mapping):
        raise TypeError(
            f"editions must be a mapping from names to editions, found {type(editions).__name__}; "
            'e.g. {"split": Split()}'
        )
    for name, edition in editions.items():
        require_edition(edition, f"editions[{name!r}]")
