"""TorchJD's multi-task backward as one more way to the gradient of the summed loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mtl_accum.editions import Tasks, Trunk, phase

__all__ = ["PINNED", "TorchJD"]

PINNED = "torchjd==0.18.0"


@dataclass(frozen=True)
class TorchJD:
    """TorchJD: `mtl_backward` and `jac_to_grad` with `Sum`, as its documentation shows them.

    All heads run before it; then the trunk's Jacobian, a row a task, is computed in one vmapped backward and its
    rows are added. The library is made for aggregators that need the rows; a sum does not.

    Args:
        chunk: Number of tasks that share a vmapped trunk backward; None is all, the library's default.
    """

    chunk: int | None = None

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`; the trunk must be a module, its representation a tensor."""
        try:
            from torchjd.aggregation import Sum
            from torchjd.autojac import jac_to_grad, mtl_backward
        except ModuleNotFoundError as error:
            raise RuntimeError(f"not measured: torchjd is not installed (pip install {PINNED})") from error
        if not isinstance(trunk, nn.Module):
            raise TypeError(f"trunk must be a module, found {type(trunk).__name__}")
        with phase("trunk", "forward"):
            z = trunk(batch)
        with phase("all heads", "forward"):
            losses = [task(z, batch) for task in tasks.values()]
        with phase("mtl_backward", "backward"):
            mtl_backward(losses, features=z, parallel_chunk_size=self.chunk)
        with phase("jac_to_grad", "backward"):
            jac_to_grad(list(trunk.parameters()), Sum())
        return {name: loss.detach().clone() for name, loss in zip(tasks, losses, strict=True)}
