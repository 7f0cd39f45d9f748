"""Wrapper for trainers: a model and an edition as one module that returns the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Self

import torch
from torch import nn

from mtl_accum.editions import Edition, Schedule, Tasks, Trunk, require_edition
from mtl_accum.editions._engine import Scale, eager
from mtl_accum.models._evaluation import evaluate, head_outputs
from mtl_accum.models._origin import Origin
from mtl_accum.models._shadow import Shadow, beside, unregistered

__all__ = ["WithLoss"]

_BESIDE = "with_loss"  # submodule with the parts that only the given trunk and tasks hold


class WithLoss(Shadow):
    """Multi-task model whose `forward` returns its loss, for trainers that call `.backward()` themselves.

    Equals, with gradients enabled::

        total, losses = edition.loss(model.trunk, model.tasks, batch)
        return {"loss": total, "losses": losses}

    The result depends on `torch.is_grad_enabled()`, not on the mode: a network with BatchNorm frozen in eval mode can
    be trained. With gradients disabled, the trunk runs once and the tasks run one after the other on its output. The
    result then also has `"outputs"`, for every task with a `head`, with or without a target in the batch::

        trainer = transformers.Trainer(WithLoss(model, Split()), arguments, ...)   # remove_unused_columns=False
        def training_step(self, batch): return self.model(batch)["loss"]           # Lightning
        accelerator.backward(model(batch)["loss"])                                 # Accelerate
        model = DistributedDataParallel(WithLoss(model, Split()))                  # around WithLoss, not the model
        fully_shard(model := WithLoss(model, Split()))

    Parameters, optimizer groups by name and state dicts have the names of the model, so state dicts of the model and of
    WithLoss can be exchanged. The model's own `forward`, and hooks on it, do not run. The Trainer of transformers
    reports `eval_loss` and predictions `(losses, outputs)`; `predict(data, ignore_keys=["loss", "losses"])` returns the
    outputs alone.

    Args:
        model: Module that holds the parameters: a `MultiTaskModel`, or any module with `.trunk` and `.tasks`.
        edition: Edition that computes the loss. It must have `loss`: `Split()` does, `PerTask()` does not.
        trunk: Function from a batch to the representation, in place of `model.trunk`, for a model that keeps its class.
            It may use parts of the model. Pass a method of the model if copies (such as an average of weights) must use
            their own parts.
        tasks: Tasks or functions by name, in place of `model.tasks`. Parts that they hold and the model does not, such
            as a learned weight, are registered below `with_loss`; a state dict of the model alone then loads with
            `strict=False`.
        scale: Loss scale of an fp16 trainer: a number, a 0-dim tensor or a callable such as `scaler.get_scale`.
        group: Ranks that share a step, by default all; see `edition.loss`.

    Raises:
        TypeError: edition is not an edition or has no `loss`; model is not a module; trunk cannot be called; tasks is
            not a mapping; model is already wrapped by DDP, FSDP2 or `torch.compile`, which belong around WithLoss; or a
            function trains parameters that are not registered.
        ValueError: There is no task.
    """

    _edition: Any
    _trunk: Trunk | None
    _tasks: Tasks | None
    _options: _Options
    _origin: Origin  # of a copy, until its first step

    accepts_loss_kwargs = False  # if true, transformers' Trainer would not divide by the number of accumulated steps

    def __init__(
        self,
        model: nn.Module,
        edition: Any,
        *,
        trunk: Trunk | None = None,
        tasks: Tasks | None = None,
        scale: Scale | None = None,
        group: Any = None,
    ) -> None:
        _require_loss(edition)
        _require_bare(model)
        own_trunk, own_tasks = _parts(model, trunk, tasks)
        extra = beside(model, own_trunk, own_tasks)
        super().__init__(model, None if extra is None else {**model._modules, _BESIDE: extra})
        # Not attributes: modules among them would be registered under their names.
        vars(self).update(_edition=edition, _trunk=trunk, _tasks=tasks, _options=_Options(scale=scale, group=group))
        missing = unregistered(self, [own_trunk, *own_tasks.values()])
        if missing:
            raise TypeError(
                "trunk and tasks must hold their parameters as modules, found a function that uses others: "
                f"{_first(missing)}; make it a Task or another nn.Module, so they are trained and saved, or "
                "freeze them with requires_grad_(False)"
            )

    def forward(self, batch: Any = None, return_loss: bool = True, **fields: Any) -> dict[str, Any]:
        """Return the loss of a batch.

        Args:
            batch: Batch that trunk and tasks read.
            return_loss: Whether to return losses; if False, only outputs are returned.
            **fields: Batch as keyword arguments, for trainers that call `model(**batch)`; trunk and tasks get a dict.

        Returns:
            Dict with "loss", a 0-dim tensor for `.backward()`, and "losses", the detached losses of the tasks by name,
            0 for absent tasks. With gradients disabled it also has "outputs" by name, and the loss is NaN if all tasks
            are absent.

        Raises:
            TypeError: Both batch and fields are given, or neither.
            RuntimeError: A submodule of the model was replaced, and the given tasks may still use the old one; or this
                is a copy whose trunk or tasks still use parts of the original.
        """
        batch = _batch(batch, fields)
        self._require_same_parts()
        trunk, tasks = _parts(self._original, self._trunk, self._tasks)
        if "_origin" in vars(self):
            self._require_own_parts(trunk, tasks)
        if not return_loss:
            return {"outputs": head_outputs(tasks, trunk(batch))}
        if not torch.is_grad_enabled():
            return evaluate(trunk, tasks, batch)
        total, losses = self._edition.loss(trunk, tasks, batch, **self._options)
        return {"loss": total, "losses": losses}

    def train(self, mode: bool = True) -> Self:
        """Set the mode with the model's own `train`, which may keep some parts in a different mode."""
        if _BESIDE in self._modules:
            self.get_submodule(_BESIDE).train(mode)
        self._original.train(mode)
        return self

    def extra_repr(self) -> str:
        """Return the description shown before the submodules."""
        return f"{type(self._original).__name__}, {self._edition}"

    def _load_from_state_dict(self, *arguments: Any) -> None:
        unexpected = arguments[5]
        before = len(unexpected)
        super()._load_from_state_dict(*arguments)
        if _BESIDE in self._modules:  # a submodule that the model does not have
            prefix = f"{arguments[1]}{_BESIDE}."
            unexpected[before:] = [key for key in unexpected[before:] if not key.startswith(prefix)]

    def __getstate__(self) -> dict[str, Any]:
        functions = _by_name(*_parts(self._original, self._trunk, self._tasks))
        return {**vars(self), "_origin": Origin.of(self, functions, vars(self).get("_origin"))}

    @eager
    def _require_own_parts(self, trunk: Trunk, tasks: Tasks) -> None:
        """Check a copy once. This happens in its first step: a copy that contains itself is incomplete before."""
        for name, function in _by_name(trunk, tasks).items():
            shared = self._origin.shared_parts(name, function, self)
            if shared:
                raise RuntimeError(
                    f"WithLoss: this is a copy, whose {name} still uses parts of the original ({_first(shared)}): "
                    "what a function refers to is not copied with it; give what can be copied: a method of the model "
                    "(trunk=model.encode), functools.partial(function, model), modules such as Task; or copy the state "
                    "alone, by load_state_dict"
                )
        del self._origin

    def _replicate_for_data_parallel(self) -> NoReturn:
        raise RuntimeError(
            "WithLoss does not run under nn.DataParallel, whose copies hold no trainable parameters; start "
            "one process for each GPU (torchrun, accelerate launch) or show one GPU (CUDA_VISIBLE_DEVICES=0)"
        )

    def _require_same_parts(self) -> None:
        parts = self._original._modules
        if parts is not self._modules and any(self._modules.get(name) is not part for name, part in parts.items()):
            raise RuntimeError(
                "WithLoss: a submodule of the model was replaced after the tasks were given, which may still use the "
                "old one; create WithLoss and its tasks again"
            )


class _Options(dict[str, Any]):
    """Keyword arguments of `edition.loss`, shared by copies: a scaler is the trainer's; a group cannot be copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Options:
        return self


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def _batch(batch: Any, fields: dict[str, Any]) -> Any:
    if (batch is None) is (not fields):
        kind = f"a batch and the fields {', '.join(map(repr, fields))}" if fields else "neither"
        raise TypeError(
            f"WithLoss must be called with a batch or with its fields as keywords, found {kind}; a field that is "
            "called 'batch' or 'return_loss' needs model(fields) with a dict"
        )
    return fields if batch is None else batch


def _require_loss(edition: object) -> None:
    inner: Edition | None = require_edition(edition)
    if not isinstance(edition, Edition) and callable(getattr(edition, "loss", None)):
        return  # an edition of the user's own class
    while inner is not None:
        no_loss = inner.no_loss if isinstance(inner, Schedule) else None
        if no_loss is not None or not isinstance(inner, Schedule):
            raise TypeError(
                f"edition must have loss(trunk, tasks, batch), found {edition!r}; use Split() or another one that has"
                + f" ({type(inner).__name__}: {no_loss})" * (no_loss is not None)
            )
        inner = inner.inner


_AROUND = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "OptimizedModule"}


def _require_bare(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, found {f'{model!r}':.200}")
    for kind in type(model).__mro__:
        if kind.__name__ in _AROUND:
            raise TypeError(
                f"model must be the module itself, found it in {kind.__name__}, whose forward would not run; wrap "
                "afterwards: DistributedDataParallel, fully_shard or torch.compile of WithLoss(model, edition)"
            )


def _parts(model: Any, trunk: Trunk | None, tasks: Tasks | None) -> tuple[Trunk, Tasks]:
    """Return the given trunk and tasks, or those of the model."""
    trunk = getattr(model, "trunk", None) if trunk is None else trunk
    tasks = getattr(model, "tasks", None) if tasks is None else tasks
    if not callable(trunk) or isinstance(trunk, type):
        raise TypeError(f"trunk must be a callable batch -> representation, found {_kind(trunk)}; {_GIVE}")
    if not isinstance(tasks, Mapping | nn.ModuleDict):
        raise TypeError(f"tasks must be a mapping from names to tasks, found {_kind(tasks)}; {_GIVE}")
    if not tasks:
        raise ValueError("tasks must hold at least one task, found none")
    return trunk, tasks


def _by_name(trunk: Trunk, tasks: Tasks) -> dict[str, Callable[..., Any]]:
    return {"trunk": trunk, **{f"task '{name}'": task for name, task in tasks.items()}}


_GIVE = "a model without .trunk and .tasks needs WithLoss(model, edition, trunk=..., tasks={...})"


def _kind(value: object) -> str:
    return "none" if value is None else f"{f'{value!r}':.200}"
