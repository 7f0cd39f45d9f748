"""A model and an edition as one module that returns a loss, as trainers call it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from mtl_accum.editions import Edition, Schedule, SummedLoss, Tasks, Trunk, require_edition
from mtl_accum.editions._engine import Piece, Scale, eager, read_counts
from mtl_accum.editions._engine import leaves as tree_leaves
from mtl_accum.models._multi_task import run_head
from mtl_accum.models._origin import Origin
from mtl_accum.models._shadow import Shadow, beside, unregistered

__all__ = ["WithLoss"]

_BESIDE = "with_loss"  # the child with what only the given trunk and tasks hold


class WithLoss(Shadow):
    """A multi-task model whose `forward` returns its loss: for trainers, which call `.backward()` themselves.

    Equals, where gradients are on::

        total, losses = edition.loss(model.trunk, model.tasks, batch)
        return {"loss": total, "losses": losses}

    Gradients decide (`torch.is_grad_enabled()`), and not the mode: a network whose BatchNorm is frozen in eval mode
    trains. Where they are off, the tasks run one after the other as they are, on one pass of the trunk, and the
    result has `"outputs"` too, of every task that has a `head`, also of those without a target in the batch::

        trainer = transformers.Trainer(WithLoss(model, Split()), arguments, ...)   # remove_unused_columns=False
        def training_step(self, batch): return self.model(batch)["loss"]           # Lightning
        accelerator.backward(model(batch)["loss"])                                 # Accelerate
        model = DistributedDataParallel(WithLoss(model, Split()))                  # not the model: around all
        fully_shard(model := WithLoss(model, Split()))

    Names are the model's: parameters, optimizer groups by name, and state dicts, which load into the model as it is and
    back. The model's own `forward`, and hooks on it, do not run. The Trainer of transformers has `eval_loss` and
    predictions `(losses, outputs)`; `predict(data, ignore_keys=["loss", "losses"])` gives the outputs alone.

    Args:
        model: Holds the parameters; a `MultiTaskModel`, or any module with `.trunk` and `.tasks`.
        edition: How the loss is computed; it must have `loss`, as `Split()` has, and `PerTask()` has not.
        trunk: Maps a batch to the representation, in place of `model.trunk`; for a model that keeps its class. It may
            use the model's parts; so that copies (an average of weights) use their own, give a method of the model.
        tasks: Tasks or functions by name, in place of `model.tasks`. What they hold and the model does not (a learned
            weight) is registered below `with_loss`; load a state dict of the model alone with `strict=False` then.
        scale: The loss scale of an fp16 trainer: a number, a 0-dim tensor or a callable such as `scaler.get_scale`.
        group: The ranks that share a step, by default all; see `edition.loss`.

    Raises:
        TypeError: The edition is none or has no `loss`; model, trunk or tasks are no such thing; model is wrapped (by
            DDP, FSDP2, `torch.compile`), which belongs around WithLoss; or a function trains what is not registered.
        ValueError: There is no task.
    """

    _edition: Any
    _trunk: Trunk | None
    _tasks: Tasks | None
    _options: _Options
    _origin: Origin  # a copy's, until its first step

    accepts_loss_kwargs = False  # else the Trainer of transformers leaves the division by the accumulated steps to us

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
        more = beside(model, own_trunk, own_tasks)
        super().__init__(model, None if more is None else {**model._modules, _BESIDE: more})
        # Not attributes: modules among them would be registered under their names.
        vars(self).update(_edition=edition, _trunk=trunk, _tasks=tasks, _options=_Options(scale=scale, group=group))
        missing = unregistered(self, [own_trunk, *own_tasks.values()])
        if missing:
            raise TypeError(
                "trunk and tasks must hold their parameters as modules, found a function that uses others: "
                f"{_first(missing)}; make it a Task or another nn.Module, so that they are trained and saved, or "
                "freeze them with requires_grad_(False)"
            )

    def forward(self, batch: Any = None, return_loss: bool = True, **fields: Any) -> dict[str, Any]:
        """Return the loss of a batch.

        Args:
            batch: What trunk and tasks read.
            return_loss: Whether to return losses; without them only outputs.
            **fields: The batch in keywords, for trainers that call `model(**batch)`; trunk and tasks see a dict.

        Returns:
            "loss", 0-dim, which `.backward()` is called on; "losses", those of the tasks by name, detached, 0 for a
            task that is absent. Where gradients are off, "outputs" too, by name, and the loss is NaN if all tasks are
            absent.

        Raises:
            TypeError: Both batch and fields are given, or neither.
            RuntimeError: A submodule of the model was replaced, and the tasks that were given still use the old one; or
                this is a copy, and trunk or tasks still use parts of the original.
        """
        batch = _batch(batch, fields)
        self._require_same_parts()
        trunk, tasks = _parts(self._original, self._trunk, self._tasks)
        if "_origin" in vars(self):
            self._require_own_parts(trunk, tasks)
        if not return_loss:
            return {"outputs": _outputs(tasks, trunk(batch), {})}
        if not torch.is_grad_enabled():
            return _evaluate(trunk, tasks, batch)
        total, losses = self._edition.loss(trunk, tasks, batch, **self._options)
        return {"loss": total, "losses": losses}

    def train(self, mode: bool = True) -> Self:
        """Set the mode as the model itself does, which may keep some parts in another one."""
        if _BESIDE in self._modules:
            self.get_submodule(_BESIDE).train(mode)
        self._original.train(mode)
        return self

    def extra_repr(self) -> str:
        """Return what stands before the submodules."""
        return f"{type(self._original).__name__}, {self._edition}"

    def _load_from_state_dict(self, *arguments: Any) -> None:
        unexpected = arguments[5]
        before = len(unexpected)
        super()._load_from_state_dict(*arguments)
        if _BESIDE in self._modules:  # which the model has not
            mine = f"{arguments[1]}{_BESIDE}."
            unexpected[before:] = [key for key in unexpected[before:] if not key.startswith(mine)]

    def __getstate__(self) -> dict[str, Any]:
        functions = _by_name(*_parts(self._original, self._trunk, self._tasks))
        return {**vars(self), "_origin": Origin.of(self, functions, vars(self).get("_origin"))}

    @eager
    def _require_own_parts(self, trunk: Trunk, tasks: Tasks) -> None:
        """Look once at a copy; in its first step, for a copy that holds itself is not whole before."""
        for who, function in _by_name(trunk, tasks).items():
            left = self._origin.left_behind(who, function, self)
            if left:
                raise RuntimeError(
                    f"WithLoss: this is a copy, whose {who} still uses parts of the original ({_first(left)}), for "
                    "what a function refers to is not copied with it; give what can be copied: a method of the model "
                    "(trunk=model.encode), functools.partial(function, model), modules such as Task; or copy the state "
                    "alone, by load_state_dict"
                )
        del self._origin

    def _replicate_for_data_parallel(self) -> NoReturn:
        raise RuntimeError(
            "WithLoss does not run under nn.DataParallel, whose copies hold no parameters that could be trained; start "
            "one process for each GPU (torchrun, accelerate launch) or show one GPU (CUDA_VISIBLE_DEVICES=0)"
        )

    def _require_same_parts(self) -> None:
        parts = self._original._modules
        if parts is not self._modules and any(self._modules.get(name) is not part for name, part in parts.items()):
            raise RuntimeError(
                "WithLoss: a submodule of the model was replaced after the tasks were given, which may still use the "
                "old one; make WithLoss and its tasks again"
            )


class _Options(dict[str, Any]):
    """Keywords of `edition.loss`, shared by copies: the scaler is the trainer's, and a group of ranks has no copy."""

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
        return  # a user's class
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
    """Return the trunk and the tasks: those that were given, else the model's."""
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


def _evaluate(trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Any]:
    """Return the plain losses and outputs; the trunk and every head run once."""
    z = trunk(batch)
    counts = read_counts(tasks, [Piece(None, batch)])
    present = {name: task for name, task in tasks.items() if counts[name][None]}
    losses: dict[str, Tensor] = {}
    total = _like(z, batch, math.nan)  # not 0, which would look like success
    with ExitStack() as watchers:
        seen = {name: watchers.enter_context(_watching(task)) for name, task in present.items()}
        if present:
            total, losses = SummedLoss().loss(lambda _: z, present, batch)
    absent = torch.zeros_like(total)
    return {
        "loss": total,
        "losses": {name: losses.get(name, absent) for name in tasks},
        "outputs": _outputs(tasks, z, {name: values[0] for name, values in seen.items() if len(values) == 1}),
    }


def _outputs(tasks: Tasks, z: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output of every task with a head: as it is known, else from its head."""
    heads = {name: task for name, task in tasks.items() if callable(getattr(task, "head", None))}
    return {name: known[name] if name in known else run_head(task, z) for name, task in heads.items()}


@contextmanager
def _watching(task: Any) -> Iterator[list[Any]]:
    """Collect a task's outputs, as far as it has watchers; a task in chunks has several."""
    outputs: list[Any] = []

    def watch(output: Any, _: Any) -> None:
        outputs.append(output)

    watchers = getattr(task, "watchers", None)
    watchers = watchers if isinstance(watchers, list) else []
    watchers.append(watch)
    try:
        yield outputs
    finally:
        watchers.remove(watch)


def _like(z: Any, batch: Any, value: float) -> Tensor:
    """Return a 0-dim tensor where the representation is."""
    tensors = (leaf for tree in (z, batch) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return torch.full((), value, device=next((tensor.device for tensor in tensors), None))
