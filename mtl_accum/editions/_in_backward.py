"""Optimizer steps inside of the backward pass, so the gradients of all parameters never exist together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from mtl_accum.editions._as_loss import AsLoss
from mtl_accum.editions._checkpointed import Checkpointed
from mtl_accum.editions._engine import Edition, EditionLike, Tasks, Trunk, modules_of, require_edition
from mtl_accum.editions._offloaded import Offloaded
from mtl_accum.editions._split import Split
from mtl_accum.editions._summed import SummedLoss

__all__ = ["InBackward"]


@final
@dataclass(frozen=True)
class InBackward(Edition):
    """InBackward: each parameter's optimizer step as soon as its gradient is complete, which is freed at once.

    The gradients of all parameters, as many bytes as the parameters, never exist together (Lv et al., 2024, Full
    Parameter Fine-tuning for Large Language Models with Limited Resources). Each parameter is updated by
    `optimizer.step()` with that parameter alone. The result is the same where the optimizer updates each parameter
    independently, as all of torch's do but LBFGS. What needs the whole gradient first is impossible: clipping by the
    global norm, loss scaling, skipping NaN, undoing a step, and accumulation.

    Args:
        edition: Edition in which one backward completes a parameter: `SummedLoss`, or `Split` without head chunks; also
            inside of `Checkpointed` or `Offloaded`; or any `AsLoss`, which keeps the heads' gradients until that
            backward.
        optimizer: Optimizer of the network's parameters.

    Raises:
        ValueError: The edition adds gradients up over several backwards; the optimizer needs all parameters together;
            or, in `Split`, two parts share a parameter.
    """

    edition: EditionLike
    optimizer: torch.optim.Optimizer = field(repr=False)
    _checked: set[tuple[int, ...]] = field(default_factory=set, repr=False, compare=False)
    leaves_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        innermost = _innermost(self.inner)
        name = type(innermost).__name__
        if not isinstance(innermost, SummedLoss | Split | AsLoss):
            raise ValueError(
                "step_in_backward: a step in the backward needs every parameter's gradient from one backward; "
                f"{name} adds it up over several: use SummedLoss() or Split()"
            )
        if isinstance(innermost, Split) and innermost.head_chunks > 1:
            raise ValueError(
                "step_in_backward: a step in the backward needs every head in one piece; found head_chunks above 1"
            )
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise ValueError(
                "step_in_backward: updates one parameter at a time, but LBFGS needs the full gradient; use another "
                "optimizer or step_in_backward=false"
            )

    @property
    def inner(self) -> Edition:
        """The edition inside."""
        return require_edition(self.edition)

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`; afterwards the parameters are updated, and no gradient is left."""
        if isinstance(_innermost(self.inner), Split):
            self._refuse_shared(trunk, tasks)
        groups = self.optimizer.param_groups
        group_of = {parameter: index for index, group in enumerate(groups) for parameter in group["params"]}
        done: set[Tensor] = set()

        def step(parameter: Tensor) -> None:
            if parameter in done:
                raise RuntimeError(
                    "step_in_backward: a second gradient arrived for a parameter that was already updated in this "
                    "step; its first update used an incomplete gradient. Use SummedLoss()"
                )
            done.add(parameter)
            all_parameters = [group["params"] for group in groups]
            try:
                for index, group in enumerate(groups):
                    group["params"] = [parameter] if index == group_of[parameter] else []
                self.optimizer.step()
            finally:
                for group, parameters in zip(groups, all_parameters, strict=True):
                    group["params"] = parameters
            parameter.grad = None

        hooks = [p.register_post_accumulate_grad_hook(step) for p in group_of if p.requires_grad]
        try:
            return self.inner.forward_backward(trunk, tasks, batch)
        finally:
            for hook in hooks:
                hook.remove()

    def _refuse_shared(self, trunk: Trunk, tasks: Tasks) -> None:
        """Raise ValueError for a parameter that parts share: it gets a gradient in the backward of each of them."""
        key = (id(trunk), *map(id, tasks.values()))
        if key in self._checked:
            return
        parts = {
            "the trunk": _parameters(trunk),
            **{f"task '{name}'": _parameters(task) for name, task in tasks.items()},
        }
        owner: dict[int, str] = {}
        for part, parameters in parts.items():
            for name, parameter in parameters.items():
                first = owner.setdefault(id(parameter), part)
                if first != part:
                    raise ValueError(
                        f"a step in the backward needs every parameter in one part; {name} is shared by {first} and "
                        f"{part}: use SummedLoss()"
                    )
        self._checked.add(key)


def _innermost(edition: Edition) -> Edition:
    while isinstance(edition, Checkpointed | Offloaded):
        edition = edition.inner
    return edition


def _parameters(part: Any) -> Mapping[str, nn.Parameter]:
    return {
        f"{type(module).__name__}.{name}": parameter
        for module in modules_of(part)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    }
